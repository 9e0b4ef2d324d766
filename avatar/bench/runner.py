"""Runs benchmark suites, compares their ratios with a committed baseline, and says under what conditions."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import avatar.bench
from avatar.bench import Metric
from avatar.doctor import processor_name, usable_cores
from avatar.files import atomic_write

Suite = Callable[[bool], Iterable[Metric | Mapping[str, object]]]
HARNESS = {"runner"}  # modules of avatar.bench that are not suites
TRIES = 3  # a suite below its baseline runs again: a neighbour's burst passes, a slower kernel stays


@dataclass(frozen=True)
class Report:
    """What a run of several suites found."""

    metrics: list[Metric]
    """Everything measured; the best of the tries."""
    failures: list[str]
    """One sentence for every ratio that stayed below its baseline."""


def built_suites() -> list[str]:
    """Names of the suites that exist, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(avatar.bench.__path__) if m.name not in HARNESS)


def load(name: str) -> Suite:
    """The `run(quick)` function of a suite. ValueError where later work still has to write it."""
    if name not in built_suites():
        raise ValueError(f"benchmark suite {name!r} is not built yet; there are: {', '.join(built_suites())}")
    suite: Suite = importlib.import_module(f"avatar.bench.{name}").run
    return suite


def run(
    suites: Mapping[str, Suite],
    quick: bool,
    baseline: Mapping[str, float] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run suites by name; with a baseline, those that fall below it run again, at most `TRIES` times in all.

    `baseline` maps the keys of ratios to their committed values; None compares nothing. `say` hears each result line.
    """
    metrics: list[Metric] = []
    failures: list[str] = []
    for name, suite in suites.items():
        best: dict[str, Metric] = {}
        low: list[str] = []
        for attempt in range(TRIES):
            best = better_of(best, measure(name, suite, quick))
            low = below(name, best, baseline or {}, quick)
            if not low:
                break
            say(f"{name}: below the baseline in try {attempt + 1} of {TRIES}")
        for metric in best.values():
            say(f"{metric.key:<44} {metric.value:>10.4g} {metric.unit}")
        metrics += best.values()
        failures += low
    return Report(metrics, failures)


def measure(name: str, suite: Suite, quick: bool) -> dict[str, Metric]:
    """Run one suite once. Every key must begin with the suite's name, and come once."""
    found: dict[str, Metric] = {}
    for row in suite(quick):
        metric = row if isinstance(row, Metric) else Metric(**row)  # type: ignore[arg-type]
        if not metric.key.startswith(f"{name}."):
            raise ValueError(f"benchmark suite {name!r}: every key must begin with {name + '.'!r}, got {metric.key!r}")
        if metric.key in found:
            raise ValueError(f"benchmark suite {name!r}: {metric.key} was reported twice")
        found[metric.key] = metric
    return found


def better_of(old: Mapping[str, Metric], new: Mapping[str, Metric]) -> dict[str, Metric]:
    """Of two runs of a suite the better value of each key: noise only ever makes things look worse."""
    kept = dict(old)
    for key, metric in new.items():
        before = old.get(key)
        sign = 1 if metric.direction == "higher" else -1
        if before is None or sign * metric.value > sign * before.value:
            kept[key] = metric
    return kept


def below(name: str, metrics: Mapping[str, Metric], baseline: Mapping[str, float], quick: bool) -> list[str]:
    """A sentence for every ratio of suite `name` under its baseline, and for those that are no longer measured.

    A quick run may leave workloads out, so there only what was measured counts.
    """
    sentences = []
    for key, wanted in baseline.items():
        if not key.startswith(f"{name}."):
            continue
        metric = metrics.get(key)
        if metric is None:
            if not quick:
                sentences.append(f"{key} is in the baseline ({wanted:.3g}x) and was not measured")
        elif metric.value < wanted * (1 - metric.tolerance):
            sentences.append(
                f"{key} is {metric.value:.3g}x, the baseline is {wanted:.3g}x "
                f"and the least allowed {wanted * (1 - metric.tolerance):.3g}x"
            )
    return sentences


def checkout() -> Path | None:
    """The folder of the source checkout that this package runs from; None for an installed wheel."""
    folder = Path(avatar.bench.__file__).resolve().parents[2]
    return folder if (folder / "tests" / "benchmarks").is_dir() else None


def baseline_file() -> Path:
    """Where the ratios of this class of device are committed, tests/benchmarks/baseline/cpu-<isa>.json."""
    from avatar.ops._native import isa

    folder = checkout()
    if folder is None:
        raise FileNotFoundError(
            "the baselines are in tests/benchmarks of the source checkout, and this is an installed package; "
            "run avatar bench from a checkout, or without --gate and --update-baseline"
        )
    return folder / "tests" / "benchmarks" / "baseline" / f"cpu-{isa()}.json"


def read_baseline(path: Path) -> dict[str, float]:
    """Ratios by key. FileNotFoundError says how to record them."""
    if not path.exists():
        raise FileNotFoundError(
            f"no baseline for this device at {path}; record one on a quiet machine with avatar bench --update-baseline"
        )
    return {key: float(value) for key, value in json.loads(path.read_text()).items()}


def update_baseline(path: Path, metrics: Sequence[Metric]) -> None:
    """Put the measured ratios into a baseline file, keeping those of suites that did not run."""
    ran = {metric.key.split(".")[0] for metric in metrics}
    kept = {} if not path.exists() else read_baseline(path)
    ratios = {key: value for key, value in kept.items() if key.split(".")[0] not in ran}
    ratios |= {metric.key: float(f"{metric.value:.3g}") for metric in metrics if metric.is_ratio}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(dict(sorted(ratios.items())), indent=2) + "\n")


def rows(metrics: Sequence[Metric]) -> list[dict[str, object]]:
    """Metrics as the JSON contract has them: a list of {key, value, unit, direction}."""
    return [{k: v for k, v in asdict(metric).items() if k != "tolerance"} for metric in metrics]


def conditions() -> str:
    """One line that a number means nothing without: date, commit, processor, instruction set, threads, load, torch."""
    import torch

    from avatar.ops._native import isa

    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{now}, commit {_commit()}, {processor_name()}, {isa()}, {torch.get_num_threads()} threads, "
        f"load {load}, torch {torch.__version__}"
    )


def warning() -> str:
    """A sentence where other processes use the machine, so that the numbers mean little; empty on a quiet one."""
    load, cores = os.getloadavg()[0], usable_cores()
    return f"warning: load {load:.1f} on {cores} cores, the times are not to be trusted" if load > cores else ""


def _commit() -> str:
    folder = checkout()
    if folder is None:
        return "unknown"
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
