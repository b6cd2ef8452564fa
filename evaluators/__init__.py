"""How good is it? Quality (KL, perplexity, lm-eval tasks), cost over profiles, comparison with a base model."""
