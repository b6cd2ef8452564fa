"""Compressed-tensors checkpoints: what they can hold, how they are written, and how they are loaded again."""
