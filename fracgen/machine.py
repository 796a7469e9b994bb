"""The cache folder: where what is worth keeping lies."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where found categories are kept: $FRACGEN_CACHE, or the user's cache folder."""
    return Path(os.environ.get("FRACGEN_CACHE") or platformdirs.user_cache_path("fracgen"))
