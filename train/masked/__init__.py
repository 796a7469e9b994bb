"""Masked autoencoding: pre-training without labels."""
