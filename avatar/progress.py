"""Progress of long work: a bar with the time left on a terminal, a line now and then in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
LOG_EVERY = 10.0  # seconds between lines where stderr is not a terminal


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Hand on `items` while showing how far they are and how many seconds are left.

    `total` is the number of items where `items` has no length; None then shows a count without an end.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not sys.stderr.isatty():
        yield from _logged(items, label, total)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, label, total=total, console=Console(stderr=True))


def _logged(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    start = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= LOG_EVERY or done == total:
            said = now
            left = f" of {total}, {(now - start) * (total - done) / done:.0f} s left" if total else ""
            sys.stderr.write(f"{label}: {done}{left}\n")
