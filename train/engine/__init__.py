"""Models, training steps, checkpoints, evaluation."""
