"""What this machine gives: a cache folder, and a compiler."""

import os
from pathlib import Path

from fracgen.shards.errors import UsageError

NO_COMPILER = "NUMBA_DISABLE_JIT is set, and images are made by compiled kernels; unset it"


def cache_folder() -> Path:
    """Where found categories are kept: $FRACGEN_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("FRACGEN_CACHE") or platformdirs.user_cache_path("fracgen"))


def check_compiler() -> None:
    """Raises UsageError where the environment tells numba not to compile. Called before threads import kernels."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise UsageError(NO_COMPILER)
