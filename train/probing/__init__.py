"""Frozen features, and classifiers on them."""
