"""Job titles to vectors, without PyTorch."""
