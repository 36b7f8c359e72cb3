"""How far a graph is from the PyTorch reference."""
