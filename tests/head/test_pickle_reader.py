"""Reading FLAME's pickles: the arrays come out, nothing runs, damaged and hostile files end in one named error."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix

sys.path.insert(0, str(Path(__file__).parent))
from generated_files import Ch, flame_pickle, flame_resaved, flame_values, npy, npz, py2_pickle

from avatar.head import flame
from avatar.head.pickle_reader import Global, Record, read_pickle, single_object, to_array
from avatar.head.source_file import HeadFileError, parse_npy, read_npz

HERE = Path("model.pkl")
SMALL = {"verts": 12, "faces": 16}
MUTANTS = 3000


def small_values() -> dict:
    return flame_values(**SMALL, shapes=2, expressions=1, dtype="f4")


def read(data: bytes) -> flame.FlameArrays:
    return flame.read_arrays(data, HERE, **SMALL)


def assert_same(arrays: flame.FlameArrays, values: dict) -> None:
    np.testing.assert_array_equal(arrays.template, values["v_template"])
    np.testing.assert_array_equal(arrays.faces, values["f"])
    np.testing.assert_array_equal(arrays.shapedirs, values["shapedirs"])
    np.testing.assert_array_equal(arrays.posedirs, values["posedirs"])
    np.testing.assert_allclose(arrays.joint_regressor, values["J_regressor"].toarray(), atol=1e-7)
    np.testing.assert_array_equal(arrays.skin_weights, values["weights"])


@pytest.mark.parametrize("selected", [False, True])
def test_python_2_pickles_give_back_their_arrays(selected):
    assert_same(read(flame_pickle(small_values(), selected)), small_values())


@pytest.mark.parametrize("protocol", range(6))
def test_files_saved_again_in_python_3_give_back_their_arrays(protocol):
    assert_same(read(flame_resaved(small_values(), protocol)), small_values())


def test_npz_with_a_pickled_regressor_inside_gives_back_its_arrays():
    assert_same(read(npz(small_values())), small_values())


def test_fortran_order_and_big_endian_numbers_are_honoured():
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    for written in (array, array.astype(">f8"), array.astype("<i2")):
        np.testing.assert_array_equal(to_array(read_pickle(py2_pickle(written), HERE), HERE, "a"), array)
        np.testing.assert_array_equal(parse_npy(npy(written), HERE, "a"), array)


def test_the_generated_pickle_is_a_genuine_one(monkeypatch):
    """Python's own unpickler reads the same from it, given classes under the names of chumpy and old scipy."""

    class Anything:
        pass

    class Sparse:
        pass

    names = {"chumpy.ch": {"Ch": Anything}, "chumpy.reordering": {"Select": Anything}}
    names |= {"chumpy": {}, "scipy.sparse.csc": {"csc_matrix": Sparse}}
    for name, content in names.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    values = small_values()
    data = flame_pickle(values)
    for named in (b"cchumpy.ch\nCh\n", b"cscipy.sparse.csc\ncsc_matrix\n", b"ccopy_reg\n_reconstructor\n",
                  b"cnumpy.core.multiarray\n_reconstruct\n"):  # fmt: skip
        assert named in data
    loaded = pickle.loads(data, encoding="latin1")
    np.testing.assert_array_equal(loaded["shapedirs"].x, values["shapedirs"])
    np.testing.assert_array_equal(loaded["J_regressor"].indptr, values["J_regressor"].indptr)
    assert loaded["bs_style"] == "lbs"


def test_nothing_is_constructed():
    value = read_pickle(flame_pickle(small_values()), HERE)
    assert type(value["shapedirs"]) is Record
    assert type(value["J_regressor"].args[0]) is Global
    assert repr(value["shapedirs"]) == "Record(chumpy.ch.Ch)"


class Runs:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda path: (os.system, (f"touch {path}",)), "posix.system"),
        (lambda path: (exec, (f"open({str(path)!r}, 'w')",)), "exec"),
        (lambda path: (open, (str(path), "w")), "open"),
        (lambda path: (np.save, (str(path), 1)), "save"),
    ],
)
def test_code_in_a_pickle_never_runs_and_is_named(tmp_path, protocol, call, named):
    mark = tmp_path / "ran"
    data = pickle.dumps({**small_values(), "extra": Runs(call(mark))}, protocol=protocol)
    with pytest.raises(HeadFileError, match=rf"{named}.*blocked.*nothing was run"):
        read(data)
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [b"(S'true'\nios\nsystem\n.", b"(cos\nsystem\nS'true'\no.", b"\x82\x01.", b"\x84\x01\x00\x00\x00.", b"\x97."],
)
def test_old_and_rare_opcodes_are_refused(code):
    with pytest.raises(HeadFileError):
        read_pickle(b"\x80\x02" + code, HERE)


def test_allowed_names_cannot_be_combined_into_a_call():
    data = py2_pickle(np.zeros(2)).replace(b"cnumpy\ndtype\n", b"c__builtin__\nset\n")
    with pytest.raises(HeadFileError, match="dtype"):
        to_array(read_pickle(data, HERE), HERE, "a")


HOSTILE = {
    "empty": b"",
    "only a header": b"\x80\x02",
    "not a pickle": b"version https://git-lfs.github.com/spec/v1\n",
    "protocol 9": b"\x80\x09N.",
    "8 exabytes promised": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "memo never set": b"\x80\x02j\xff\xff\xff\xff.",
    "huge integer": b"\x80\x02\x8b" + struct.pack("<I", 100_000) + b"\x01" * 100_000 + b".",
    "huge decimal": b"I" + b"9" * 100_000 + b"\n.",
    "bad utf-8": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "bad quotes": b"S'abc\n.",
    "bad float": b"F1.0.0\n.",
    "pop below the mark": b"\x80\x02N(a.",
    "tuple of missing values": b"\x80\x02K\x01\x87.",
    "two values left": b"\x80\x02NN.",
    "bytes after the end": b"\x80\x02N.N",
    "tuple as key": b"\x80\x02}()K\x01u.",
    "odd items": b"\x80\x02}(U\x01au.",
    "state for a list": b"\x80\x02]Nb.",
    "call of a number": b"\x80\x02K\x01)R.",
    "two states": b"\x80\x02cchumpy.ch\nCh\n)\x81}(U\x01aK\x01ub}b.",
    "endless": b"\x80\x02" + b"N0" * 600_000 + b".",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_end_in_one_named_error(name):
    with pytest.raises(HeadFileError, match=r"model\.pkl: pickle: expected .* got "):
        read_pickle(HOSTILE[name], HERE)


def test_a_large_memo_number_needs_no_memory():
    assert read_pickle(b"\x80\x02K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.", HERE) == 5


def test_doubling_tuples_are_read_but_never_walked():
    bomb = b"\x80\x02)" + b"2\x86" * 60 + b"."
    with pytest.raises(HeadFileError, match="an array"):
        to_array(read_pickle(bomb, HERE), HERE, "a")


def test_two_hundred_thousand_levels_do_not_end_the_stack():
    assert isinstance(read_pickle(b"\x80\x02N" + b"\x85" * 200_000 + b".", HERE), tuple)


def test_an_array_that_is_itself_is_refused():
    data = b"\x80\x02cchumpy.ch\nCh\n)\x81q\x00}(U\x01xh\x00ub."
    with pytest.raises(HeadFileError, match="refer to each other"):
        to_array(read_pickle(data, HERE), HERE, "a")


def numpy_record(shape: object, descr: str = "f8", order: str = "<", raw: object = b"\0" * 24) -> Record:
    dtype = Record(Global("numpy", "dtype"), (descr, 0, 1), (3, order, None, None, None, -1, -1, 0))
    args = (Global("numpy", "ndarray"), (0,), b"b")
    return Record(Global("numpy.core.multiarray", "_reconstruct"), args, (1, shape, dtype, False, raw))


@pytest.mark.parametrize(
    "record",
    [
        numpy_record((4,)),
        numpy_record((1 << 40,)),
        numpy_record((-3,)),
        numpy_record((-1, -3)),
        numpy_record((3.0,)),
        numpy_record((True, 3)),
        numpy_record([3]),
        numpy_record((3, 1, 1, 1, 1, 1)),
        numpy_record((0,), raw=b""),
        numpy_record((1 << 62, 1 << 62, 4), raw=b""),
        numpy_record((3,), descr="O8"),
        numpy_record((3,), descr="V8"),
        numpy_record((3,), descr="f8,f8"),
        numpy_record((3,), descr="S0"),
        numpy_record((3,), order="|<"),
        numpy_record((3,), raw=[1.0, 2.0, 3.0]),
        numpy_record((3,), raw="\u0100" * 24),
        Record(Global("numpy.core.multiarray", "_reconstruct"), (), None),
        Record(Global("chumpy.ch", "Ch"), (), {"y": 1}),
        Record(Global("chumpy.ch", "Ch"), (), None),
        Record(Global("os", "system"), ("true",)),
    ],
)
def test_an_array_is_taken_only_if_dtype_shape_and_bytes_agree(record):
    with pytest.raises(HeadFileError):
        to_array(record, HERE, "a")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("indptr", [0, 2, 1, 3]),
        ("indptr", [0, 1, 2, 4]),
        ("indptr", [1, 1, 2, 3]),
        ("indptr", [0, 1, 3]),
        ("indices", [0, 1, 5]),
        ("indices", [0, 1, -1]),
        ("indices", [0, 1]),
        ("data", [0, 1, 2]),
        ("_shape", (1 << 20, 1 << 20)),
        ("_shape", (2, 4)),
        ("_shape", (-2, 3)),
    ],
)
def test_a_sparse_matrix_with_one_wrong_index_is_refused(part, value):
    state = {"data": [0.5, 1.0, 2.0], "indices": [0, 1, 0], "indptr": [0, 1, 2, 3], "_shape": (2, 3)}
    record = Record(Global("scipy.sparse._csc", "csc_matrix"), (), state)
    expected = csc_matrix((state["data"], state["indices"], state["indptr"]), shape=(2, 3)).toarray()
    np.testing.assert_array_equal(to_array(record, HERE, "J"), expected)
    state[part] = value
    with pytest.raises(HeadFileError, match="J"):
        to_array(record, HERE, "J")


def test_a_select_beyond_its_source_is_refused():
    select = Ch(np.arange(6.0).reshape(2, 3), selected=True)
    np.testing.assert_array_equal(
        to_array(read_pickle(py2_pickle(select), HERE), HERE, "a"), np.arange(6.0).reshape(2, 3)
    )
    for key, value in (("idxs", np.array([0, 1, 2, 3, 4, 99])), ("preferred_shape", (2, 4))):
        damaged = Ch(np.arange(6.0).reshape(2, 3), selected=True)
        damaged.state[key] = value
        with pytest.raises(HeadFileError):
            to_array(read_pickle(py2_pickle(damaged), HERE), HERE, "a")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64])
def test_torch_tensors_in_landmark_files_are_read(dtype):
    tensor = torch.arange(24).reshape(4, 6).to(dtype)
    payload = parse_npy(npy({"a": tensor[1:3], "b": tensor}), HERE, "file")
    values = single_object(read_pickle(payload, HERE), HERE, "file")
    np.testing.assert_array_equal(to_array(values["a"], HERE, "a"), tensor[1:3].numpy())
    np.testing.assert_array_equal(to_array(values["b"], HERE, "b"), tensor.numpy())


def test_a_torch_tensor_that_is_not_contiguous_is_refused():
    payload = parse_npy(npy({"a": torch.arange(24).reshape(4, 6).T}), HERE, "file")
    values = single_object(read_pickle(payload, HERE), HERE, "file")
    with pytest.raises(HeadFileError, match="contiguous"):
        to_array(values["a"], HERE, "a")


def mutant(data: bytes, seed: int) -> bytes:
    """One to eight flips, cuts, insertions, copies, or an end too early; the same for the same seed."""
    rng = np.random.default_rng(seed)
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        at = int(rng.integers(len(changed)))
        match rng.integers(7):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                changed[at : at + int(rng.integers(1, 9))] = b""
            case 3:
                changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                start = int(rng.integers(len(changed)))
                changed[at:at] = changed[start : start + int(rng.integers(1, 64))]
            case 5:
                changed[at : at + 4] = struct.pack("<i", int(rng.choice([-1, 0, 2**31 - 1, -(2**31), 65536])))
            case 6 if rng.random() < 0.2:
                del changed[at:]
        if not changed:
            break
    return bytes(changed)


def assert_shapes(arrays: flame.FlameArrays, seed: int) -> None:
    verts, faces = SMALL["verts"], SMALL["faces"]
    assert arrays.template.shape == (verts, 3), seed
    assert arrays.faces.shape == (faces, 3) and arrays.faces.min() >= 0 and arrays.faces.max() < verts, seed
    assert arrays.shapedirs.shape[:2] == (verts, 3) and arrays.shapedirs.ndim == 3, seed
    assert arrays.posedirs.shape == (verts, 3, 36), seed
    assert arrays.joint_regressor.shape == (5, verts) and arrays.skin_weights.shape == (verts, 5), seed
    for array in (arrays.template, arrays.shapedirs, arrays.posedirs, arrays.joint_regressor, arrays.skin_weights):
        assert array.dtype == np.float32 and np.isfinite(array).all(), seed


def files() -> dict[str, bytes]:
    values = small_values()
    return {
        "python 2": flame_pickle(values),
        "python 2, select": flame_pickle(values, selected=True),
        "protocol 4": flame_resaved(values),
        "protocol 0": flame_resaved(values, 0),
        "npz": npz(values),
        "npz, packed": npz(values, compressed=True),
    }


@pytest.mark.parametrize("name", files())
def test_mutants_are_refused_or_keep_every_shape(name):
    """Every mutant is a function of its seed, which a failure prints."""
    data = files()[name]
    refused = 0
    for seed in range(MUTANTS):
        try:
            arrays = read(mutant(data, seed))
        except HeadFileError:
            refused += 1
        else:
            assert_shapes(arrays, seed)
    assert 0 < refused < MUTANTS


def test_mutants_of_npz_members_are_refused_or_keep_their_bytes():
    data = npz({"a": np.arange(6.0).reshape(2, 3), "names": np.array(["one", "two"])})
    for seed in range(1500):
        try:
            arrays = read_npz(HERE, mutant(data, seed), ("a",), ("names",))
        except HeadFileError:
            continue
        assert isinstance(arrays["a"], np.ndarray | bytes), seed


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-2,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9," * 39 + b"), }",
        b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
        b"{'descr': '<f8', 'fortran_order': __import__('os'), 'shape': (2,), }",
        b"{'descr': '|V99999', 'fortran_order': False, 'shape': (2,), }",
        b"(" * 5000,
    ],
)
def test_npy_headers_are_matched_and_never_evaluated(header):
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 16
    with pytest.raises(HeadFileError):
        parse_npy(data, HERE, "a")


def test_an_archive_that_unpacks_to_more_than_it_may_is_refused(monkeypatch):
    monkeypatch.setattr("avatar.head.source_file.MAX_FILE", 10_000)
    with pytest.raises(HeadFileError, match="unpacked"):
        read_npz(HERE, npz({"a": np.zeros(5000)}, compressed=True), ("a",))


def test_a_truncated_stream_of_torch_storage_is_refused():
    out = io.BytesIO()
    torch.save(torch.arange(5).untyped_storage(), out, _use_new_zipfile_serialization=False)
    record = Record(
        Global("torch._utils", "_rebuild_tensor_v2"),
        (Record(Global("torch.storage", "_load_from_bytes"), (out.getvalue()[:-9],)), 0, (5,), (1,), False, None),
    )
    with pytest.raises(HeadFileError):
        to_array(record, HERE, "a")
