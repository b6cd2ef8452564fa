"""Compression that is trained: rounding learned block by block, and whole configurations by distillation."""
