"""Comparisons and studies: several runs as one table."""
