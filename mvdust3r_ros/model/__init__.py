"""The network in PyTorch: configuration, layers, heads, weights."""
