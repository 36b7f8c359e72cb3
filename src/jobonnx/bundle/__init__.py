"""A bundle: a folder with a manifest, checked file by file, and how it comes from the Hub."""
