"""One file an engine, which stands alone: how :mod:`paretune.engines.runner` loads a model and asks it for logits."""
