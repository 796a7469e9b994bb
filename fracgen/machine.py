"""What this machine gives: a compiler."""

import os

from fracgen.shards.errors import UsageError

NO_COMPILER = "NUMBA_DISABLE_JIT is set, and images are made by compiled kernels; unset it"


def check_compiler() -> None:
    """Raises UsageError where the environment tells numba not to compile. Called before threads import kernels."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise UsageError(NO_COMPILER)
