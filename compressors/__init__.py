"""How is a choice applied to weights? Quantizers, pruners, pruned models, and the bank that holds their results.

The assembler puts a candidate together from the bank; the divergence compares it with the dense model.
"""
