"""One file per execution provider."""
