"""What this machine gives: cores, and a folder for what is worth keeping."""

import os
from pathlib import Path

import platformdirs


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where found categories are kept: $FRACGEN_CACHE, or the user's cache folder."""
    return Path(os.environ.get("FRACGEN_CACHE") or platformdirs.user_cache_path("fracgen"))
