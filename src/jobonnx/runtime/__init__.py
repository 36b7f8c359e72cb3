"""Graphs on execution providers: batches of token ids in, vectors out."""
