"""The room of training: shards into models. It imports `shards` and never `fracgen`; it is filled by the training scripts."""
