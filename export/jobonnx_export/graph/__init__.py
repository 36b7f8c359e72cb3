"""The engine graph, written node by node from the checkpoint's tensors. Start with builder.py."""
