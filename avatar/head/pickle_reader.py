"""Read pickles without executing them: an inert machine that records what a file asks for and builds none of it.

FLAME is published as Python 2 pickles of numpy, scipy and chumpy objects. Unpickling runs whatever the file names, and
even an allow-list of real numpy and scipy classes crashes the interpreter on damaged files. This machine walks the
opcodes itself (protocols 0 to 5): literals, lists, dicts and tuples become Python values; a global becomes a `Global`
if it is on the short list below and an error that names it otherwise; a call becomes a `Record` of function, arguments
and state. `to_array` then reads records of numpy, scipy and chumpy by looking at them, with every dtype, shape, size
and index checked. Opcodes: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import math
import struct
from _codecs import escape_decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avatar.head.source_file import Array, HeadFileError, array_from_buffer, shown

MAX_STEPS = 1_000_000  # opcodes; a FLAME file has about 500, its masks 200
MAX_DEPTH = 8  # of arrays inside records inside records; a file that refers to itself ends here
MAX_DENSE = 1 << 24  # numbers in a sparse matrix or a list made dense; FLAME's regressor has 25,115
MAX_INT_BYTES = 32


class Global(NamedTuple):
    """The name of a function or class in a file. Never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Record:
    """A call that a file asks for, and the state it wants to give the result. Never made."""

    function: Global
    args: tuple[object, ...]
    state: object = field(default=None)

    def __repr__(self) -> str:
        return f"Record({self.function})"


NDARRAY = Global("numpy", "ndarray")
DTYPE = Global("numpy", "dtype")
ENCODE = Global("_codecs", "encode")
CH = Global("chumpy.ch", "Ch")
SELECT = Global("chumpy.reordering", "Select")
CSC = {Global(f"scipy.sparse.{module}", "csc_matrix") for module in ("csc", "_csc")}
RECONSTRUCT = {Global(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
FROM_BUFFER = {Global(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
RECONSTRUCTOR = {Global(module, "_reconstructor") for module in ("copy_reg", "copyreg")}
REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
LOAD_FROM_BYTES = Global("torch.storage", "_load_from_bytes")
STORAGES = {
    Global("torch", "LongStorage"): "<i8",
    Global("torch", "IntStorage"): "<i4",
    Global("torch", "FloatStorage"): "<f4",
    Global("torch", "DoubleStorage"): "<f8",
}
CSC_PARTS = ("data", "indices", "indptr")
PERSISTENT = Global("persistent", "id")
ALLOWED = (
    {NDARRAY, DTYPE, ENCODE, CH, SELECT, REBUILD_TENSOR, LOAD_FROM_BYTES, Global("collections", "OrderedDict")}
    | {Global(module, name) for module in ("__builtin__", "builtins") for name in ("object", "set")}
    | CSC
    | RECONSTRUCT
    | FROM_BUFFER
    | RECONSTRUCTOR
    | set(STORAGES)
)

MARK, STOP = b"(", b"."
CONSTANTS: dict[bytes, object] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
FIXED = {b"K": struct.Struct("<B"), b"M": struct.Struct("<H"), b"J": struct.Struct("<i"), b"G": struct.Struct(">d")}
# opcode: width of the byte count in front of the literal, and what the bytes are
COUNTED = {
    b"U": (1, "bytes"), b"T": (4, "bytes"), b"C": (1, "bytes"), b"B": (4, "bytes"), b"\x8e": (8, "bytes"),
    b"\x96": (8, "bytes"), b"\x8c": (1, "text"), b"X": (4, "text"), b"\x8d": (8, "text"),
    b"\x8a": (1, "int"), b"\x8b": (4, "int"),
}  # fmt: skip
LINES = {b"F": "float", b"S": "quoted", b"V": "unicode"}
PUTS = {b"q": 1, b"r": 4}
GETS = {b"h": 1, b"j": 4}
TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}


class _Machine:
    """One pass over the opcodes of one pickle."""

    def __init__(self, data: bytes, path: Path, key: str, start: int) -> None:
        self.data = data
        self.path = path
        self.key = key
        self.at = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def refuse(self, expected: str, got: str, way_out: str = "download the file again") -> HeadFileError:
        return HeadFileError(self.path, self.key, expected, f"{got} at byte {self.at}", way_out)

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise self.refuse(f"{count} more bytes", f"{len(self.data) - self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise self.refuse("a line", "the end of the file")
        text = self.take(end - self.at)
        self.at += 1
        return text

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refuse("a value on the stack", "none")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0) or not isinstance(self.stack[-1], kind):
            raise self.refuse(f"a {kind.__name__} on the stack", "something else")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.refuse("a mark on the stack", "none")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == STOP:
                value = self.pop()
                if self.stack or self.marks:
                    raise self.refuse("one value at the end", "several")
                return value
            self.step(code)
        raise self.refuse(f"at most {MAX_STEPS} opcodes", "more")

    def step(self, code: bytes) -> None:
        push = self.stack.append
        if code in FIXED:
            push(FIXED[code].unpack(self.take(FIXED[code].size))[0])
        elif code in COUNTED:
            width, kind = COUNTED[code]
            push(self.literal(self.take(self.number(width)), kind))
        elif code in CONSTANTS:
            push(CONSTANTS[code])
        elif code in PUTS:
            self.memo[self.number(PUTS[code])] = self.top(object)
        elif code in GETS:
            self.get(self.number(GETS[code]))
        elif code in TUPLES:
            push(tuple([self.pop() for _ in range(TUPLES[code])][::-1]))
        elif code == MARK:
            self.marks.append(len(self.stack))
        elif code in LINES:
            push(self.literal(self.line(), LINES[code]))
        elif code in OTHERS:
            OTHERS[code](self)
        else:
            raise self.refuse("an opcode of a data file", f"opcode {code!r}", "it holds more than arrays")

    def literal(self, raw: bytes, kind: str) -> object:
        try:
            if kind == "bytes":
                return raw
            if kind == "text":
                return raw.decode("utf-8", "surrogatepass")
            if kind == "unicode":
                return raw.decode("raw_unicode_escape")
            if kind == "int" and len(raw) <= MAX_INT_BYTES:
                return int.from_bytes(raw, "little", signed=True)
            if kind == "float":
                return float(raw)
            if kind == "quoted" and len(raw) >= 2 and raw[:1] == raw[-1:] and raw[:1] in (b"'", b'"'):
                return escape_decode(raw[1:-1])[0]
        except ValueError as error:
            raise self.refuse(f"a literal ({kind})", shown(raw)) from error
        raise self.refuse(f"a literal ({kind})", shown(raw))

    def decimal(self) -> None:
        raw = self.line()
        if raw in (b"00", b"01"):
            self.stack.append(raw == b"01")
            return
        digits = raw.removesuffix(b"L")
        if len(digits) > MAX_INT_BYTES or not digits.removeprefix(b"-").isdigit():
            raise self.refuse("an integer", shown(raw))
        self.stack.append(int(digits))

    def memo_index(self) -> int:
        raw = self.line()
        if len(raw) > 10 or not raw.isdigit():
            raise self.refuse("a memo number", shown(raw))
        return int(raw)

    def put_line(self) -> None:
        self.memo[self.memo_index()] = self.top(object)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.refuse("a remembered value", f"memo number {index}, never set")
        self.stack.append(self.memo[index])

    def get_line(self) -> None:
        self.get(self.memo_index())

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.top(object)

    def frame(self) -> None:
        length = self.number(8)
        if length > len(self.data) - self.at:
            raise self.refuse("a frame inside the file", f"{length} bytes")

    def proto(self) -> None:
        version = self.number(1)
        if version > 5:
            raise self.refuse("pickle protocol 0 to 5", f"{version}")

    def name_global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or Global(module, name) not in ALLOWED:
            blocked = f"{shown(module)[1:-1]}.{shown(name)[1:-1]}"
            raise self.refuse(
                "only numpy, scipy and chumpy arrays", f"the global {blocked}, which is blocked",
                "nothing was run; do not open this file with pickle unless you trust its author",
            )  # fmt: skip
        self.stack.append(Global(module, name))

    def global_lines(self) -> None:
        module, name = self.line(), self.line()
        self.name_global(module.decode("latin1"), name.decode("latin1"))

    def global_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.name_global(module, name)

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise self.refuse("a named function and its arguments", "something else")
        self.stack.append(Record(function, args))

    def build(self) -> None:
        state = self.pop()
        record = self.top(Record)
        if record.state is not None:
            raise self.refuse("one state for an object", "a second one")
        record.state = state

    def persistent(self) -> None:
        args = self.pop()
        if not isinstance(args, tuple):
            raise self.refuse("the description of a storage", "something else")
        self.stack.append(Record(PERSISTENT, args))

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        if len(pairs) % 2:
            raise self.refuse("pairs of key and value", "an odd number")
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Python 2 text arrives as bytes. Other keys are refused: hashing nested tuples takes exponential time.
            key = name.decode("latin1") if isinstance(name, bytes) else name
            if not isinstance(key, str):
                raise self.refuse("text as key", shown(name))
            target[key] = value

    def set_item(self) -> None:
        value, name = self.pop(), self.pop()
        self.set_items([name, value])

    def make_dict(self) -> None:
        pairs = self.pop_to_mark()
        self.stack.append({})
        self.set_items(pairs)

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def extend(self) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)


# sets are kept as lists: nothing that a head needs is in one, and lists need no hashing
OTHERS = {
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b"\x8f": lambda m: m.stack.append([]),
    b"l": lambda m: m.stack.append(m.pop_to_mark()),
    b"t": lambda m: m.stack.append(tuple(m.pop_to_mark())),
    b"\x91": lambda m: m.stack.append(m.pop_to_mark()),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_to_mark(),
    b"2": lambda m: m.stack.append(m.top(object)),
    b"I": _Machine.decimal,
    b"L": _Machine.decimal,
    b"d": _Machine.make_dict,
    b"s": _Machine.set_item,
    b"a": _Machine.append,
    b"e": _Machine.extend,
    b"\x90": _Machine.extend,
    b"p": _Machine.put_line,
    b"g": _Machine.get_line,
    b"\x94": _Machine.memoize,
    b"\x95": _Machine.frame,
    b"\x80": _Machine.proto,
    b"c": _Machine.global_lines,
    b"\x93": _Machine.global_stack,
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"b": _Machine.build,
    b"Q": _Machine.persistent,
}


def read_pickle(data: bytes, path: Path, key: str = "pickle", start: int = 0) -> Any:
    """What a pickle describes, as Python literals, lists, dicts, tuples, `Global` and `Record`. Runs nothing.

    Bytes after the pickle are refused. `key` names the pickle in errors. Raises HeadFileError.
    """
    machine = _Machine(data, path, key, start)
    value = machine.run()
    if machine.at != len(data):
        raise machine.refuse("the end of the file", f"{len(data) - machine.at} more bytes")
    return value


def to_array(value: object, path: Path, key: str, depth: int = 0) -> Array:
    """The array that a recorded value stands for: numpy, chumpy, a scipy csc matrix (made dense), torch, or a list.

    Read-only and zero-copy where possible. Raises HeadFileError naming the key.
    """
    if depth > MAX_DEPTH:
        raise HeadFileError(path, key, "an array", "objects that refer to each other", "is the file damaged?")
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list):
        return _from_list(value, path, key, depth)
    if isinstance(value, Record):
        if value.function in RECONSTRUCT or value.function in FROM_BUFFER:
            return _from_numpy(value, path, key)
        if value.function == REBUILD_TENSOR:
            return _from_torch(value, path, key)
        kind = _class_of(value)
        if kind == CH:
            return to_array(_part(value, "x", path, key), path, key, depth + 1)
        if kind == SELECT:
            return _from_select(value, path, key, depth)
        if kind in CSC:
            return _from_csc(value, path, key, depth)
    raise HeadFileError(path, key, "an array", shown(value), "is this the right file?")


def single_object(value: object, path: Path, key: str) -> object:
    """The one object inside a pickled object array, as numpy.save writes for a dict; other values unchanged."""
    if isinstance(value, Record) and value.function in RECONSTRUCT:
        state = value.state
        if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list):
            if len(state[4]) != 1:
                raise HeadFileError(path, key, "one object", f"{len(state[4])} objects", "is this the right file?")
            return state[4][0]
    return value


def _class_of(record: Record) -> Global:
    """The class an object record would have: named directly, or through the reconstructor of protocol 0 and 1."""
    if record.function in RECONSTRUCTOR and record.args and isinstance(record.args[0], Global):
        return record.args[0]
    return record.function


def _part(record: Record, name: str, path: Path, key: str) -> object:
    if not isinstance(record.state, dict) or name not in record.state:
        raise HeadFileError(path, key, f"{record.function} with {name!r}", "none", "is the file damaged?")
    return record.state[name]


def _raw(value: object, path: Path, key: str) -> bytes:
    """The bytes of a buffer: Python 2 text, bytes, or Python 3's way of writing bytes in protocol 2."""
    if isinstance(value, Record) and value.function == ENCODE and value.args[1:] in (("latin1",), (b"latin1",)):
        value = value.args[0]
    if isinstance(value, str):
        try:
            return value.encode("latin1")
        except UnicodeEncodeError as error:
            raise HeadFileError(path, key, "bytes", "text", "is the file damaged?") from error
    if not isinstance(value, bytes):
        raise HeadFileError(path, key, "the bytes of an array", shown(value), "save it as a plain array of numbers")
    return value


def _text(value: object) -> object:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _dtype(value: object, path: Path, key: str) -> str:
    """The dtype text, for example <f8, of a recorded numpy.dtype."""
    if isinstance(value, Record) and value.function == DTYPE and value.args and isinstance(value.state, tuple):
        base = _text(value.args[0])
        order = _text(value.state[1]) if len(value.state) >= 5 else None
        if isinstance(base, str) and isinstance(order, str) and value.state[2:5] == (None, None, None):
            return (order if len(order) == 1 else "?") + base.lstrip("<>|=")
    raise HeadFileError(path, key, "a numpy dtype", shown(value), "is the file damaged?")


def _from_numpy(record: Record, path: Path, key: str) -> Array:
    if record.function in FROM_BUFFER:
        if len(record.args) != 4 or _text(record.args[3]) not in ("C", "F"):
            raise HeadFileError(path, key, "a numpy array", "another argument list", "is the file damaged?")
        raw, dtype, shape, order = record.args
        fortran: object = _text(order) == "F"
    else:
        state = record.state
        if record.args[:1] != (NDARRAY,) or not isinstance(state, tuple) or len(state) != 5:
            raise HeadFileError(path, key, "a numpy array", "an array without content", "is the file damaged?")
        _, shape, dtype, fortran, raw = state
    if fortran not in (False, True):
        raise HeadFileError(path, key, "a memory order", shown(fortran), "is the file damaged?")
    text = _dtype(dtype, path, key)
    return array_from_buffer(_raw(raw, path, key), text, shape, bool(fortran), path, key)


def _from_select(record: Record, path: Path, key: str, depth: int) -> Array:
    """chumpy's Select: entries `idxs` of the flat array `a`, in the shape `preferred_shape`."""
    source = to_array(_part(record, "a", path, key), path, key, depth + 1).reshape(-1)
    ids = to_array(_part(record, "idxs", path, key), path, key, depth + 1).reshape(-1)
    shape = _part(record, "preferred_shape", path, key)
    if ids.dtype.kind not in "iu" or (ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < source.size):
        raise HeadFileError(path, key, f"entries 0 .. {source.size - 1}", "others", "is the file damaged?")
    picked = np.ascontiguousarray(source[ids])
    return array_from_buffer(picked.tobytes(), picked.dtype.str, shape, False, path, key)


def _from_csc(record: Record, path: Path, key: str, depth: int) -> Array:
    """scipy's compressed sparse columns, made dense after every index is known to be in range."""
    parts = {name: to_array(_part(record, name, path, key), path, key, depth + 1) for name in CSC_PARTS}
    state = record.state if isinstance(record.state, dict) else {}
    shape = state.get("_shape", state.get("shape"))
    data, indices, indptr = (parts[name] for name in CSC_PARTS)
    damaged = "is the file damaged?"
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(size) is int and size > 0 for size in shape):
        raise HeadFileError(path, key, "a sparse matrix of two sizes", shown(shape), damaged)
    rows, columns = shape
    if rows * columns > MAX_DENSE:
        raise HeadFileError(path, key, f"at most {MAX_DENSE} numbers", f"{rows} x {columns}", damaged)
    if data.dtype.kind != "f" or indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise HeadFileError(path, key, "floating numbers at integer places", "other kinds", damaged)
    if data.ndim != 1 or indices.shape != data.shape or indptr.shape != (columns + 1,):
        raise HeadFileError(path, key, f"{columns} compressed columns", "arrays of other lengths", damaged)
    starts = indptr.astype(np.int64)
    places = indices.astype(np.int64)
    if starts[0] != 0 or starts[-1] != len(data) or bool((np.diff(starts) < 0).any()):
        raise HeadFileError(path, key, f"column starts rising from 0 to {len(data)}", "others", damaged)
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < rows:
        raise HeadFileError(path, key, f"row numbers 0 .. {rows - 1}", "others", damaged)
    dense = np.zeros((rows, columns), dtype=np.float64)
    np.add.at(dense, (places, np.repeat(np.arange(columns), np.diff(starts))), data)
    return dense


def _from_list(values: list[object], path: Path, key: str, depth: int) -> Array:
    """Equal rows stacked, or plain numbers."""
    if all(type(value) in (int, float) for value in values):
        try:
            return np.array(values, dtype=np.int64 if all(type(value) is int for value in values) else np.float64)
        except OverflowError as error:
            raise HeadFileError(path, key, "numbers", "numbers beyond 64 bits", "is the file damaged?") from error
    if any(isinstance(value, list) for value in values):
        raise HeadFileError(path, key, "a list of arrays", "lists in lists", "is this the right file?")
    rows = [to_array(value, path, key, depth + 1) for value in values]
    if sum(row.size for row in rows) > MAX_DENSE or len({(row.shape, row.dtype.kind) for row in rows}) != 1:
        raise HeadFileError(path, key, "rows of one shape", "different ones", "is this the right file?")
    return np.stack(rows)


def _from_torch(record: Record, path: Path, key: str) -> Array:
    """A CPU tensor as torch writes it inside another pickle: sizes here, numbers in an own small file of bytes."""
    damaged = "save the tensor as a numpy array"
    storage = record.args[0] if len(record.args) >= 4 else None
    if not isinstance(storage, Record) or storage.function != LOAD_FROM_BYTES or len(storage.args) != 1:
        raise HeadFileError(path, key, "a torch tensor", "another argument list", damaged)
    data = _raw(storage.args[0], path, key)
    machine = _Machine(data, path, key, 0)
    # torch's legacy file: magic number, version, machine facts, the storage, its keys, then count and numbers
    described = [_restart(machine) for _ in range(5)][3]
    args = described.args if isinstance(described, Record) and described.function == PERSISTENT else ()
    descr = STORAGES.get(args[1]) if len(args) >= 5 and isinstance(args[1], Global) else None
    if descr is None:
        raise HeadFileError(path, key, "a torch storage of numbers", "another storage", damaged)
    count = machine.number(8)
    flat = array_from_buffer(machine.take(len(data) - machine.at), descr, (count,), False, path, key)
    _, offset, size, stride = record.args[:4]
    if not isinstance(size, tuple) or not all(type(entry) is int and entry > 0 for entry in size) or len(size) > 5:
        raise HeadFileError(path, key, "a tensor's sizes", shown(size), damaged)
    total = math.prod(size)
    row_major = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    if type(offset) is not int or stride != row_major or not 0 <= offset <= count - total:
        raise HeadFileError(path, key, "a contiguous tensor inside its storage", "another layout", damaged)
    return flat[offset : offset + total].reshape(size)


def _restart(machine: _Machine) -> Any:
    machine.stack, machine.marks, machine.memo = [], [], {}
    return machine.run()
