"""Keeps the other framework out of this process, and tells what is in it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
from types import ModuleType
from typing import Any, Dict, Optional, Sequence, Tuple

IMPORT_NAMES: Dict[str, str] = {"torch": "torch", "paddle": "paddle"}
"""Framework -> the top-level module that is the framework."""

_MATH_LIBRARY = re.compile(
    r"lib(gomp|iomp|omp|mkl|openblas|blas|lapack|cblas|dnnl|mkldnn|onednn|cudnn|cublas|cudart|cufft|cusolver|cusparse|nccl"
    r"|torch|paddle|phi|c10|tbb)[^/]*\.so[^/ ]*$|(?:^|/)libpaddle\.so$"
)


class ForbiddenImport(ModuleNotFoundError):
    """The other framework was imported. A ModuleNotFoundError, so that libraries which can do without it do."""


class _Guard(importlib.abc.MetaPathFinder):
    def __init__(self, framework: str, forbidden: Tuple[str, ...]) -> None:
        self._framework = framework
        self._forbidden = forbidden

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        top = name.partition(".")[0]
        if top in self._forbidden:
            raise ForbiddenImport(
                f"the {self._framework} side must not import {top}: the two frameworks never share a process. "
                f"Remove the import of {top} from the {self._framework} side's script and what it imports",
                name=name,
            )
        return None


def forbid_other_frameworks(framework: str) -> None:
    """Make every import of another framework fail, and every search for one find nothing. Once is enough."""
    if any(isinstance(finder, _Guard) for finder in sys.meta_path):
        return
    forbidden = tuple(module for name, module in IMPORT_NAMES.items() if name != framework)
    sys.meta_path.insert(0, _Guard(framework, forbidden))
    find_spec = importlib.util.find_spec

    def find_allowed_spec(name: str, package: Optional[str] = None) -> Any:
        return None if name.partition(".")[0] in forbidden else find_spec(name, package)

    importlib.util.find_spec = find_allowed_spec


def loaded_frameworks_besides(framework: str) -> Tuple[str, ...]:
    """Return the other frameworks that this process holds; empty in a sound worker."""
    return tuple(name for name, module in IMPORT_NAMES.items() if name != framework and module in sys.modules)


def loaded_math_libraries() -> Tuple[str, ...]:
    """Return the file names of the native math libraries mapped into this process, sorted; from /proc/self/maps."""
    names = set()
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if path and _MATH_LIBRARY.search(path):
                names.add(os.path.basename(path))
    return tuple(sorted(names))
