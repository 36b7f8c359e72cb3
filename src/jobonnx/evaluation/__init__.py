"""Retrieval sets, metrics and tables."""
