"""The contract between rendering and training: samples into tar shards and back."""
