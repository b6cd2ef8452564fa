"""Paretune: a hardware-aware, multi-objective search for compressed language models."""
