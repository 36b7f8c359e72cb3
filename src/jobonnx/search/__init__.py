"""Nearest titles: exact top-k, and an index on disk."""
