"""The service: an HTTP server over an encoder and an index, for the extra `serve`."""
