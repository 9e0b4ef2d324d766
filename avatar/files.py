"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def atomic_write(path: Path | str, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Put `content` at `path` completely or not at all; what was there before stays until the new file is on the disk.

    `content` is the bytes, a text (stored as UTF-8), or a function that writes into the open binary file it is given.
    A symbolic link keeps pointing where it points. Pipes and devices, which cannot be replaced, are written straight.

    Raises OSError naming `path`: the folder is missing, the disk is full, the place is read-only.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder, a file name is needed")
    if target.exists() and not target.is_file():
        with open(target, "wb") as stream:
            _fill(stream, content)
        return

    draft = target.parent / f".{secrets.token_hex(8)}.part"
    try:
        with open(draft, "xb") as stream:
            _fill(stream, content)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            draft.chmod(target.stat().st_mode)
        os.replace(draft, target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def write_json(target: str, value: Any) -> None:
    """Write `value` as JSON to the file `target`, or to standard output where `target` is "-".

    Raises ValueError where `value` holds a number that JSON has no word for (NaN, infinity).
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        atomic_write(target, text)


def _fill(stream: BinaryIO, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(stream)
    else:
        stream.write(content.encode() if isinstance(content, str) else content)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable. Windows has no way to open a folder, and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
