"""Compiling kernels with numba, and loading compiled ones without what only compiling needs."""

from collections.abc import Callable
from typing import Any

import numba

from fracgen.machine import NO_COMPILER
from fracgen.shards.errors import UsageError


def _quick_cache() -> type | None:
    """The class of `_use_quick_cache`, or None where this numba has not the private parts that it is made of."""
    try:
        from llvmlite.binding import add_symbol
        from numba.core.caching import FunctionCache
        from numba.core.runtime._nrt_python import c_helpers

        load = FunctionCache._load_overload
        symbols = {f"NRT_{name}": c_helpers[name] for name in c_helpers if not name.startswith("_")}
        symbols |= {name: c_helpers[name] for name in c_helpers if name.startswith("_")}
    except (ImportError, AttributeError, TypeError):
        return None
    if "NRT_MemInfo_alloc_safe_aligned" not in symbols:  # other names: machine code would not find its functions
        return None

    class QuickCache(FunctionCache):
        def load_overload(self, sig: Any, target_context: Any) -> Any:
            """The compiled function for a signature, or None where none is kept."""
            for name, address in symbols.items():
                add_symbol(name, address)
            return load(self, sig, target_context)  # type: ignore[no-untyped-call]

    return QuickCache


_QUICK_CACHE = _quick_cache()


def _use_quick_cache(dispatcher: Any) -> bool:
    """Have a dispatcher load machine code without preparing to compile; returns whether this numba lets it.

    numba's own cache prepares before it loads: it imports all modules with types and functions that it can compile,
    SciPy among them where that is installed, and compiles a library of its runtime. Machine code needs the addresses
    of the runtime's functions only, and the compiler prepares itself where it comes to that.
    """
    if _QUICK_CACHE is None or not hasattr(dispatcher, "_cache"):
        return False
    dispatcher._cache = _QUICK_CACHE(dispatcher.py_func)
    dispatcher._compilation_chain_init_hook = lambda: None  # looks at all installed packages; compiling does so itself
    return True


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function when it is first called, and keep the machine code for later runs.

    It holds no lock while it runs, and divides as numpy does. Where nothing can be kept (no folder to write to), every
    run compiles. options: of `numba.njit`. Raises UsageError where numba is told not to compile.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise UsageError(NO_COMPILER)
    options = {"nogil": True, "error_model": "numpy", **options}
    dispatcher = numba.njit(function, **options)
    try:
        return dispatcher if _use_quick_cache(dispatcher) else numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder to write to
        return dispatcher
