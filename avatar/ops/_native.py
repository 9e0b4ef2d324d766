"""Loads the compiled operators once and exposes them as `ops` (torch.ops.avatar)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ISA_NAMES = ("scalar", "avx2", "avx512")


def _load() -> Any:
    folder = Path(__file__).resolve().parent.parent
    found = sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd"))
    if not found:
        raise ImportError(
            f"the compiled operators are missing: no _C*.so in {folder}. "
            "Build them with: pip install --no-build-isolation -e .   (needs a C++20 compiler and torch)"
        )
    torch.ops.load_library(str(found[0]))
    return torch.ops.avatar


ops = _load()


def isa() -> str:
    """Instruction set the CPU kernels use now: "scalar", "avx2" or "avx512"."""
    return ISA_NAMES[ops.get_isa()]


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run the CPU kernels with another instruction set, for tests and benchmarks. RuntimeError if the CPU lacks it."""
    previous = ops.set_isa(ISA_NAMES.index(name))
    try:
        yield
    finally:
        ops.set_isa(previous)


def available_isas() -> list[str]:
    """Names of all instruction sets this processor can run, slowest first."""
    now = ops.get_isa()
    names = []
    for level, name in enumerate(ISA_NAMES):
        try:
            ops.set_isa(level)
        except RuntimeError:
            break
        names.append(name)
    ops.set_isa(now)
    return names
