"""The engine graph, written node by node from the tensors."""
