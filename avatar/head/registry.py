"""The heads this engine knows: where each is looked for, how to get it, and loading it by name."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from avatar.head import flame, gnm, ict
from avatar.head.model import HeadModel

FLAME_PAGE = "register at https://flame.is.tue.mpg.de and download"


@dataclass(frozen=True)
class HeadSource:
    """One known head."""

    name: str
    """Its name, as `--head` takes it."""
    about: str
    """What it is, in one line."""
    licence: str
    """Licence of the model data, one line."""
    how_to_get: str
    """What to do where it is missing, one sentence."""
    files: tuple[str, ...]
    """Paths it may have below a search folder; none for a head that comes with the package."""
    read: Callable[[Path], HeadModel] | None
    """The loader; None for a head that comes with the package."""


@dataclass(frozen=True)
class HeadStatus:
    """A known head and where it was found on this machine."""

    source: HeadSource
    """The head."""
    path: Path | None
    """The file that would be loaded; None where none was found, and for a head that comes with the package."""
    searched: tuple[Path, ...]
    """Every path that was tried, in order."""

    @property
    def available(self) -> bool:
        """Whether `load(self.source.name)` has something to load."""
        return self.source.read is None or self.path is not None


def _flame(name: str, about: str, files: tuple[str, ...], download: str) -> HeadSource:
    places = tuple(place for file in files for place in (file, f"{name}/{file.rpartition('/')[2]}"))
    own = (f"{name}/generic_model.pkl",)
    return HeadSource(
        name=name,
        about=about,
        licence=flame.LICENCES[name],
        how_to_get=f"{FLAME_PAGE} {download}, then put {files[0]} into one of the folders",
        files=tuple(dict.fromkeys(places + own)),
        read=partial(flame.load, version=name),
    )


SOURCES = {
    source.name: source
    for source in (
        HeadSource(
            name="open_head",
            about="designed bust with teeth, tongue and 52 ARKit expressions; the default",
            licence="CC0",
            how_to_get="it comes with the package; install the package again where it is missing",
            files=(),
            read=None,
        ),
        _flame(
            "flame-2023-open",
            "FLAME 2023 Open, scan-statistical, 300 identities and 100 expressions",
            ("flame2023_Open.pkl", "flame2023_open.pkl", "FLAME2023Open/flame2023_Open.pkl", "flame2023_Open.npz"),
            "FLAME 2023 Open (CC-BY-4.0)",
        ),
        _flame(
            "flame-2023",
            "FLAME 2023, scan-statistical, 300 identities and 100 expressions",
            ("flame2023.pkl", "FLAME2023/flame2023.pkl", "flame2023.npz", "FLAME2023/flame2023.npz"),
            "FLAME 2023",
        ),
        _flame(
            "flame-2023-no-jaw",
            "FLAME 2023 whose expressions open the mouth",
            ("flame2023_no_jaw.pkl", "FLAME2023/flame2023_no_jaw.pkl", "flame2023_no_jaw.npz"),
            "FLAME 2023",
        ),
        _flame(
            "flame-2020",
            "FLAME 2020, scan-statistical, 300 identities and 100 expressions",
            ("FLAME2020/generic_model.pkl", "flame2020.pkl", "FLAME2020/flame2020.pkl", "flame2020.npz"),
            "FLAME 2020",
        ),
        HeadSource(
            name=gnm.MODEL_ID,
            about="GNM head 3, 17,821 vertices with teeth, tongue and eyes",
            licence=gnm.LICENCE,
            how_to_get="download gnm/shape/data/versions/v3_0/gnm_head.npz from https://github.com/google/GNM and put "
            "it into one of the folders",
            files=("gnm_head.npz", f"{gnm.MODEL_ID}/gnm_head.npz"),
            read=gnm.load,
        ),
        HeadSource(
            name=ict.MODEL_ID,
            about="ICT Face Model Light, 26,719 vertices with teeth, tongue and eyes",
            licence=ict.LICENCE,
            how_to_get="pack FaceXModel of https://github.com/ICT-VGL/ICT-FaceKit as ict_light.npz (keys: see "
            "avatar/head/ict.py) and put it into one of the folders",
            files=("ict_light.npz", f"{ict.MODEL_ID}/ict_light.npz", "ict_facekit/ict_light.npz"),
            read=ict.load,
        ),
    )
}


def search_folders() -> tuple[Path, ...]:
    """Where head files are looked for, in order: the folders of AVATAR_HEADS, then heads/ below AVATAR_CACHE.

    AVATAR_HEADS may name several folders, separated as in PATH; AVATAR_CACHE defaults to ~/.cache/avatar.
    """
    named = [Path(folder).expanduser() for folder in os.environ.get("AVATAR_HEADS", "").split(os.pathsep) if folder]
    cache = Path(os.environ.get("AVATAR_CACHE") or "~/.cache/avatar").expanduser()
    return (*named, cache / "heads")


def available_heads() -> tuple[HeadStatus, ...]:
    """Every known head, with the file found for it and the paths that were tried. Opens no file."""
    return tuple(_status(source) for source in SOURCES.values())


def load(name: str, path: Path | None = None) -> HeadModel:
    """A head by name, from `path` or from the first place where it is found.

    Raises ValueError for an unknown name, FileNotFoundError that says where it was looked for and how to get it, and
    HeadFileError (a ValueError) for a file that is not what it should be.
    """
    if name not in SOURCES:
        raise ValueError(f"no head is called {name!r}; known are {', '.join(SOURCES)}")
    source = SOURCES[name]
    if source.read is None:
        if path is not None:
            raise ValueError(f"{name} comes with the package and takes no path, got {path}")
        packaged: HeadModel = importlib.import_module(f"avatar.head.{name}").load()
        return packaged
    if path is not None:
        return source.read(Path(path))
    status = _status(source)
    if status.path is None:
        tried = ", ".join(str(place) for place in status.searched)
        raise FileNotFoundError(f"{name} not found; looked for {tried}. To get it: {source.how_to_get}")
    return source.read(status.path)


def _status(source: HeadSource) -> HeadStatus:
    searched = tuple(folder / file for folder in search_folders() for file in source.files)
    return HeadStatus(source=source, path=next((path for path in searched if path.is_file()), None), searched=searched)
