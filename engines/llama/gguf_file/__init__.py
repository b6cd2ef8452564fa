"""GGUF, the file of llama.cpp: names, keys, tokenizer and tensors of a candidate."""
