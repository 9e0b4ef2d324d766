"""Head files from outside: read within limits, every array checked before use, one readable error.

Nothing here runs code from a file: .npy headers are matched against the one form numpy writes (no eval), .npz members
are unpacked within a byte budget, and object arrays come back as raw pickle bytes for `avatar.head.pickle_reader`.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

MAX_FILE = 1 << 30  # bytes; the largest known head file has 76 MB, its largest archive unpacks to 150 MB
MAX_MEMBERS = 256  # entries of an archive; known files have 25
MAX_VALUE = 1e6  # no coordinate, weight or direction of a head comes near, in metres or centimetres

NPY_HEADER = re.compile(
    r"\{'descr': '([^']{1,12})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,80})\), \}\s*\Z"
)
DTYPE = re.compile(r"[<>|=]?(?:f[248]|b1|[iu][1248]|[SU][1-9][0-9]{0,3})\Z")
KINDS = {"f": ("floating numbers", "f"), "n": ("numbers", "fiu"), "i": ("integers", "iu"), "s": ("text", "SU")}


class HeadFileError(ValueError):
    """A head file is not what it should be. Names the file, the key, what was expected, what came and the way out."""

    def __init__(self, path: Path, key: str, expected: str, got: str, way_out: str) -> None:
        super().__init__(f"{path}: {key}: expected {expected}, got {got}; {way_out}")
        self.path = path
        self.key = key


def shown(value: object, limit: int = 60) -> str:
    """A value from a file as printable ASCII, cut to `limit` characters."""
    if isinstance(value, str | bytes):
        value = value[:limit]
    plain = isinstance(value, str | bytes | int | float | type(None))
    # containers from a file may hold themselves; only flat, short ones are printed
    if isinstance(value, tuple) and len(value) <= 8:
        plain = all(type(entry) in (int, str, bytes) for entry in value)
    text = ascii(value) if plain else type(value).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_source(path: Path, limit: int = MAX_FILE) -> bytes:
    """The bytes of a file. FileNotFoundError where it is missing, HeadFileError where it is no file or too large."""
    if not path.exists():
        raise FileNotFoundError(f"head file not found: {path}; check the path")
    if not path.is_file():
        raise HeadFileError(path, "file", "a regular file", "something else", "give the path of the model file itself")
    size = path.stat().st_size
    if not 0 < size <= limit:
        raise HeadFileError(path, "file", f"1 to {limit} bytes", f"{size} bytes", "download it again")
    return path.read_bytes()


def sha256(data: bytes) -> str:
    """Hash of a file's bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def array_from_buffer(
    data: bytes, descr: object, shape: object, fortran: bool, path: Path, key: str, way_out: str = "download it again"
) -> Array:
    """A read-only array over `data`, once dtype text, shape and byte count agree. Only numbers and text."""
    if not isinstance(descr, str) or DTYPE.match(descr) is None:
        raise HeadFileError(path, key, "numbers or text", f"dtype {shown(descr)}", way_out)
    if (
        not isinstance(shape, tuple)
        or len(shape) > 5
        or not all(type(size) is int and 0 < size <= MAX_FILE for size in shape)
    ):
        raise HeadFileError(path, key, "a shape of at most five sizes above zero", shown(shape), way_out)
    dtype = np.dtype(descr.replace("b1", "u1"))  # a damaged byte is no boolean, so they stay bytes
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data):
        raise HeadFileError(path, key, f"{wanted} bytes for {descr} {list(shape)}", f"{len(data)} bytes", way_out)
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def parse_npy(data: bytes, path: Path, key: str) -> Array | bytes:
    """The array in the bytes of a .npy file; for an object array of shape () or (n,) its raw pickle bytes instead."""
    way_out = "save it again with numpy.save"
    if len(data) < 10 or data[:6] != b"\x93NUMPY" or data[6] not in (1, 2, 3):
        raise HeadFileError(path, key, "a .npy array", shown(bytes(data[:8])), way_out)
    wide = data[6] > 1
    start = 12 if wide else 10
    length = struct.unpack_from("<I" if wide else "<H", data, 8)[0] if len(data) >= start else 1 << 32
    if length > min(10_000, len(data) - start):
        raise HeadFileError(path, key, "a .npy header inside the file", f"{length} bytes of header", way_out)
    header = NPY_HEADER.match(bytes(data[start : start + length]).decode("latin1"))
    if header is None:
        raise HeadFileError(
            path, key, "the header numpy.save writes", shown(bytes(data[start : start + length])), way_out
        )
    descr, fortran, dims = header.groups()
    if descr == "|O":
        return bytes(data[start + length :])
    parts = [part.strip() for part in dims.split(",")]
    if parts and parts[-1] == "":
        parts.pop()
    if not all(part.isdigit() and len(part) < 12 for part in parts):
        raise HeadFileError(path, key, "a shape", shown(dims), way_out)
    shape = tuple(int(part) for part in parts)
    return array_from_buffer(data[start + length :], descr, shape, fortran == "True", path, key, way_out)


def read_npz(
    path: Path, data: bytes, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Array | bytes]:
    """The named arrays of a .npz file, without numpy's pickle path. Object arrays come back as their pickle bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_MEMBERS:
                raise HeadFileError(path, "archive", f"at most {MAX_MEMBERS} arrays", str(len(entries)), "check it")
            by_name = {entry.filename.removesuffix(".npy"): entry for entry in entries}
            missing = [name for name in required if name not in by_name]
            if missing:
                raise HeadFileError(
                    path, ", ".join(missing), "these arrays", f"only {shown(', '.join(sorted(by_name)), 300)}",
                    "is this the right file?",
                )  # fmt: skip
            wanted = [name for name in (*required, *optional) if name in by_name]
            unpacked = sum(by_name[name].file_size for name in wanted)
            if unpacked > MAX_FILE:
                raise HeadFileError(
                    path, "archive", f"at most {MAX_FILE} bytes unpacked", f"{unpacked}", "download it again"
                )
            arrays = {}
            for name in wanted:
                if by_name[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise HeadFileError(path, name, "stored or deflated", "another compression", "save it with numpy")
                arrays[name] = parse_npy(archive.read(by_name[name]), path, name)
            return arrays
    except HeadFileError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, OverflowError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        # zipfile answers damaged archives with any of these, depending on the field that is damaged
        raise HeadFileError(path, "archive", "a .npz file", shown(str(error)), "download it again") from error


def checked(
    path: Path,
    key: str,
    array: object,
    pattern: str,
    kind: str,
    sizes: dict[str, int],
    way_out: str = "is this the right file?",
) -> Array:
    """One array of the wanted shape and kind, as float32, int64 or text.

    `pattern` works as in `avatar.checks.check_shapes`: numbers must match, names bind in `sizes` at their first use.
    `kind` is f (floating, finite, below `MAX_VALUE`), n (the same from any numbers), i (integers) or s (text).
    """
    what, kinds = KINDS[kind]
    if not isinstance(array, np.ndarray):
        raise HeadFileError(
            path, key, f"an array of {what}", "Python objects", "save it as a plain array; objects are never built"
        )
    if array.dtype.kind not in kinds:
        raise HeadFileError(path, key, what, str(array.dtype), way_out)
    dims = pattern.split()
    before = dict(sizes)
    good = array.ndim == len(dims)
    for dim, size in zip(dims, array.shape, strict=False):
        good = good and size == (int(dim) if dim.isdigit() else sizes.setdefault(dim, size))
    if not good:
        known = ", ".join(f"{dim} = {before[dim]}" for dim in dict.fromkeys(dims) if dim in before)
        raise HeadFileError(
            path, key, f"[{', '.join(dims)}]" + (f" with {known}" if known else ""), str(list(array.shape)), way_out
        )
    if kind == "i":
        return array.astype(np.int64)
    if kind == "s":
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(array, dtype=np.float32, order="C")  # a copy: views of file bytes cannot be written to
    if values.size and not max(-float(values.min()), float(values.max())) <= MAX_VALUE:
        raise HeadFileError(path, key, f"finite numbers below {MAX_VALUE:g}", "larger, NaN or infinite ones", way_out)
    return values


def check_ids(path: Path, key: str, ids: Array, count: int, of: str) -> None:
    """Every id lies in 0 .. count - 1; `of` says what the ids number."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise HeadFileError(
            path, key, f"{of} ids 0 .. {count - 1}", f"{ids.min()} .. {ids.max()}", "is this the right file?"
        )


def check_rows_sum_to_one(path: Path, key: str, rows: Array, tolerance: float = 1e-3) -> None:
    """The last axis sums to one everywhere, within `tolerance`."""
    off = float(np.abs(rows.sum(axis=-1, dtype=np.float64) - 1.0).max(initial=0.0))
    if not off <= tolerance:
        raise HeadFileError(path, key, "rows that sum to one", f"a row off by {off:.3g}", "is the file damaged?")


def texts(path: Path, key: str, array: Array) -> tuple[str, ...]:
    """The entries of a one-dimensional text array. HeadFileError where a code is no character."""
    if array.dtype.kind == "S":
        return tuple(bytes(entry).decode("latin1") for entry in array)
    codes = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).view(np.uint32)
    if codes.size and (int(codes.max()) > 0x10FFFF or bool(((codes >= 0xD800) & (codes < 0xE000)).any())):
        raise HeadFileError(path, key, "text", "codes that are no characters", "download it again")
    return tuple(str(entry) for entry in array)


def side_last(name: str) -> str:
    """Region names with the side at the end, as joints have it: left_ear -> ear_left."""
    side, _, rest = name.partition("_")
    return f"{rest}_{side}" if side in ("left", "right") and rest else name


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of some names that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def required_keys(path: Path, found: Mapping[str, object], keys: Collection[str]) -> None:
    """All keys are there; HeadFileError lists the missing ones."""
    missing = [key for key in keys if key not in found]
    if missing:
        have = shown(", ".join(sorted(found)), 300)
        raise HeadFileError(path, ", ".join(missing), "these keys", f"only {have}", "is this the right file?")
