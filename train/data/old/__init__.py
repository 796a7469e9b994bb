"""The data modules of 0.2, until the scripts take the new ones; they go with this folder."""
