"""`avatar bench`: what a suite needs to measure with. A suite is a module here with `run(quick) -> list[Metric]`.

Ratios against a peer in the same process (keys containing ".x_") are what the gate compares: a time depends on the
machine and on who else uses it, a ratio of interleaved rounds much less.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

TOLERANCE = 0.35  # the same ratio measured twice on a shared machine differs by up to a third


@dataclass(frozen=True)
class Metric:
    """One measured number."""

    key: str
    """Dotted name: suite, workload, quantity; "raster.head_15k_256.ms", "raster.head_15k_256.x_scalar"."""
    value: float
    """The number, finite."""
    unit: str
    """Its unit: "ms", "x" for ratios, "dB", "MB"."""
    direction: Literal["lower", "higher"]
    """Which way is better."""
    tolerance: float = TOLERANCE
    """Share of the baseline that the gate forgives."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"benchmark {self.key}: the value must be finite, got {self.value}")
        if self.direction not in ("lower", "higher"):
            raise ValueError(f'benchmark {self.key}: direction must be "lower" or "higher", got {self.direction!r}')
        if self.is_ratio and self.direction != "higher":
            raise ValueError(f"benchmark {self.key}: a ratio says how many times faster, so higher must be better")

    @property
    def is_ratio(self) -> bool:
        """Whether this is a speed-up over a peer, the kind of number that the gate compares."""
        return ".x_" in self.key


@dataclass(frozen=True)
class Timing:
    """How long one function took over many rounds."""

    median: float
    """Wall clock of a call, milliseconds."""
    iqr: float
    """Distance between the quartiles of the wall clock, milliseconds."""
    cpu_median: float
    """Processor time of the calling thread in a call, milliseconds; other processes do not disturb it."""


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int = 30, warmup: int = 3) -> dict[str, Timing]:
    """Time functions in turn, round after round, so that whatever slows the machine slows all of them alike.

    `rounds` (at least 2) calls of each function are measured after `warmup` unmeasured ones; 30 and 3 are the least
    that a published number rests on. The garbage collector rests meanwhile.
    """
    if rounds < 2:
        raise ValueError(f"interleaved: rounds must be at least 2 to have quartiles, got {rounds}")
    for _ in range(warmup):
        for function in functions.values():
            function()
    wall: dict[str, list[float]] = {name: [] for name in functions}
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, function in functions.items():
                cpu_start, wall_start = time.thread_time(), time.perf_counter()
                function()
                wall[name].append((time.perf_counter() - wall_start) * 1e3)
                cpu[name].append((time.thread_time() - cpu_start) * 1e3)
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(median(wall[name]), _quartile_distance(wall[name]), median(cpu[name])) for name in functions}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and our operators compute on the calling thread only.

    Ratios for the gate belong in here, from `cpu_median`: on a busy machine two threads that meet at the end of every
    parallel loop measure the scheduler (one Adam step: 0.06 ms quiet, 16 ms with three other jobs on two cores).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quartile_distance(values: list[float]) -> float:
    first, _, third = quantiles(values, n=4)
    return third - first
