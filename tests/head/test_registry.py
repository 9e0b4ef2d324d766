"""Finding heads by name: search order, what is said where one is missing, and loading through one door."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from generated_files import flame_pickle, flame_values, gnm_values, ict_values, npz, write

from avatar.head import HeadModel, available_heads, load
from avatar.head.registry import SOURCES, search_folders
from avatar.head.source_file import HeadFileError


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HEADS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    monkeypatch.setenv("AVATAR_CACHE", str(tmp_path / "cache"))
    return tmp_path


def status(name):
    return next(entry for entry in available_heads() if entry.source.name == name)


def test_folders_are_the_named_ones_and_then_the_cache(folders, monkeypatch):
    assert search_folders() == (folders / "one", folders / "two", folders / "cache" / "heads")
    monkeypatch.delenv("AVATAR_HEADS")
    monkeypatch.delenv("AVATAR_CACHE")
    monkeypatch.setenv("HOME", str(folders))
    assert search_folders() == (folders / ".cache" / "avatar" / "heads",)


def test_every_known_head_is_listed_with_where_it_was_looked_for(folders):
    names = [entry.source.name for entry in available_heads()]
    assert names == [
        "open_head",
        "flame-2023-open",
        "flame-2023",
        "flame-2023-no-jaw",
        "flame-2020",
        "gnm-3",
        "ict-light",
    ]
    for entry in available_heads():
        if entry.source.read is None:
            assert entry.available and not entry.searched
        else:
            assert not entry.available and entry.path is None
            assert {path.parents[len(path.relative_to(folders).parts) - 2] for path in entry.searched} >= {
                folders / "one"
            }
        assert entry.source.licence and entry.source.how_to_get


def test_the_first_folder_wins(folders):
    data = npz(gnm_values()[0])
    write(folders / "cache" / "heads" / "gnm_head.npz", data)
    assert status("gnm-3").path == folders / "cache" / "heads" / "gnm_head.npz"
    write(folders / "two" / "gnm-3" / "gnm_head.npz", data)
    assert status("gnm-3").path == folders / "two" / "gnm-3" / "gnm_head.npz"
    write(folders / "one" / "gnm_head.npz", data)
    assert status("gnm-3").path == folders / "one" / "gnm_head.npz" and status("gnm-3").available


@pytest.mark.parametrize(
    ("name", "file", "data"),
    [
        ("gnm-3", "gnm_head.npz", lambda: npz(gnm_values()[0])),
        ("ict-light", "ict_facekit/ict_light.npz", lambda: npz(ict_values())),
        ("flame-2020", "FLAME2020/generic_model.pkl", lambda: flame_pickle(flame_values(shapes=300, dtype="f4"))),
        ("flame-2023-open", "flame-2023-open/generic_model.pkl",
         lambda: flame_pickle(flame_values(shapes=300, dtype="f4"))),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*directions instead of 400")
def test_a_head_is_loaded_by_name_from_where_it_lies_and_from_a_path(folders, name, file, data):
    path = write(folders / "two" / file, data())
    head = load(name)
    assert isinstance(head, HeadModel) and head.model_id == name == status(name).source.name
    assert load(name, path).sha256 == head.sha256


def test_a_missing_head_says_where_it_was_looked_for_and_how_to_get_it(folders):
    with pytest.raises(FileNotFoundError) as caught:
        load("flame-2023")
    message = str(caught.value)
    assert str(folders / "one" / "flame2023.pkl") in message and "flame.is.tue.mpg.de" in message


def test_unknown_names_and_wrong_files_are_refused(folders):
    with pytest.raises(ValueError, match="no head is called 'flame'; known are open_head"):
        load("flame")
    with pytest.raises(ValueError, match="takes no path"):
        load("open_head", folders / "x")
    other = write(folders / "flame2023.pkl", b"\x80\x02}.")
    with pytest.raises(HeadFileError, match="load it as flame-2023"):
        load("flame-2020", other)
    with pytest.raises(HeadFileError, match="v_template"):
        load("flame-2023", other)


def test_names_are_the_identifiers_that_loaded_heads_carry():
    assert all(name == source.name for name, source in SOURCES.items())
