"""What llama.cpp loads, the GGUF file, and the programs that run it."""
