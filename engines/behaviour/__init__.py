"""Token pruning and early exit in our own generation loop, for decoders built like Llama.

The forward passes of a candidate's blocks are wrapped one by one; embedding, masks, positions, final norm and
head stay the model's own, and nothing is wrapped while nothing is left out: what is switched off is exact.
"""
