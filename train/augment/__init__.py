"""From decoded images to what a model sees: augmentation (ours, batched; or timm's), mixing, the evaluation view."""
