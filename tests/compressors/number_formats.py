"""Which quantizers are held to the contract of formats that are not plain integers."""

OBSERVERS = ("minmax", "percentile", "entropy")
"""Read a range off the weights; percentile and entropy clip by design, so outliers do not come back."""
LEARNERS = ("kmeans", "learned")
"""Fit a codebook."""
