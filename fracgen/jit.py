"""Compiling kernels with numba, and loading compiled ones without what only compiling needs."""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import binding as llvm
from numba.core.caching import FunctionCache
from numba.core.runtime import _nrt_python as runtime  # type: ignore[attr-defined]


class _KernelCache(FunctionCache):
    """numba's cache of one function, which loads machine code without preparing to compile.

    numba's own prepares before it loads: it imports all modules with types and functions that it can compile, SciPy
    among them where that is installed, and compiles a library of its runtime. Machine code needs the addresses of the
    runtime's functions only, and the compiler prepares itself where it comes to that. Uses numba's private modules.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature, or None where none is kept."""
        for name, address in runtime.c_helpers.items():
            llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
        return self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function when it is first called, and keep the machine code for later runs.

    It holds no lock while it runs, and divides as numpy does. Where nothing can be kept (no folder to write to), every
    run compiles. options: of `numba.njit`.
    """
    dispatcher = numba.njit(function, nogil=True, error_model="numpy", **options)
    with contextlib.suppress(RuntimeError):  # no folder to write to
        dispatcher._cache = _KernelCache(function)  # type: ignore[no-untyped-call]
    return dispatcher
