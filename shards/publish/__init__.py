"""Finished folders to other places, whole or not at all."""
