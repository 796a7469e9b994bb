"""The room of training: shards into models. It imports `shards`, and never `fracgen`."""
