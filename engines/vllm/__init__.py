"""What vLLM loads and executes by device generation, and the program that runs it."""
