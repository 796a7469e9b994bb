"""Sequences of brackets to warm a transformer up on, without any image."""
