"""Loops compiled by Numba: when their module is loaded, for this machine's processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

import numba
from llvmlite import binding

Arguments = ParamSpec("Arguments")

_config: Any = numba.config

PROCESSOR: str = binding.get_host_cpu_name()  # in LLVM's words: "znver3", "cascadelake"
_features = binding.get_host_cpu_features()
if _config.CPU_FEATURES is None and _features.get("avx512f"):
    # By itself LLVM uses half of each register, for the sake of the clock; a BLAS beside it uses all of it.
    _config.CPU_FEATURES = _features.flatten() + ",-prefer-256-bit"


def compiled(*types: Any, **options: Any) -> Callable[[Callable[Arguments, None]], Callable[Arguments, None]]:
    """For arguments of these types; one of another type or layout is an error and no second compilation.

    The first time it takes a second or two; from then on it comes out of a cache beside the source or in the user's
    folder.
    """
    options = {"error_model": "numpy", "nogil": True, **options}

    def made(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
        try:
            found: Callable[Arguments, None] = numba.njit(numba.void(*types), cache=True, **options)(function)
        except RuntimeError:  # there is no folder to keep it in that can be written to
            found = numba.njit(numba.void(*types), **options)(function)
        return found

    return made
