"""The shape of the house: its folders, who may import whom, and what every page owes its reader.

Read from the source text alone, so that it also holds for modules that cannot be imported on this machine.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"avatar", "csrc", "scenes", "configs", "viewer", "tests"}
MADE = {"build", "dist", "out", "runs"}  # what commands leave behind; git does not see it
MAPPED = ("scenes", "configs", "viewer")
ROOMS = {"geometry", "ops", "head", "model", "render", "audio", "train", "track", "export", "bench"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "core", "tools", "lib", "stuff"}

BASE = ["files", "progress", "video", "checks", "types"]
BEFORE_TRAIN = [*BASE, "geometry", "ops", "head", "render", "model", "audio"]
EVERYTHING = [*BEFORE_TRAIN, "train", "track", "export", "scenes", "configs", "viewer"]
MAY_IMPORT = {
    "files": [],
    "progress": [],
    "video": ["files", "progress"],
    "checks": [],
    "types": BASE,
    "geometry": BASE,
    "ops": [*BASE, "geometry"],
    "head": [*BASE, "geometry", "ops"],
    "render": [*BASE, "geometry", "ops", "head"],
    "model": [*BASE, "geometry", "ops", "head", "render"],
    "audio": [*BASE, "geometry", "ops", "head", "render", "model"],
    "train": BEFORE_TRAIN,
    "track": BEFORE_TRAIN,
    "export": [*BEFORE_TRAIN, "train", "track"],
    "scenes": [*BASE, "geometry", "head"],
    "configs": [*BEFORE_TRAIN, "train", "track", "export", "scenes"],
    "viewer": BEFORE_TRAIN,
    "contact_sheet": BEFORE_TRAIN,
    "demo": [*EVERYTHING, "contact_sheet"],
    "doctor": EVERYTHING,
    "bench": [*EVERYTHING, "doctor"],
    "cli": [*EVERYTHING, "contact_sheet", "demo", "doctor", "bench"],
}


def library_files() -> list[Path]:
    """Every Python file that gets installed."""
    return [path for folder in ("avatar", *MAPPED) for path in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path: Path) -> str:
    """Installed name of a file: scenes/nersemble.py is avatar.scenes.nersemble."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in MAPPED:
        parts.insert(0, "avatar")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of the house a module is in: avatar.ops.adam is in ops. The front door, avatar itself, is ""."""
    return module.split(".")[1] if "." in module else ""


def imported_modules(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every module of ours that a file imports, anywhere in it, relative imports resolved."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "avatar":  # from avatar import ops
                for name in node.names:
                    yield node.lineno, f"avatar.{name.name}"
            else:
                yield node.lineno, module


def wrong_arrows(tree: ast.AST, path: Path) -> list[str]:
    """Imports of a file that go against the arrows."""
    room = room_of(module_of(path))
    allowed = {room, *MAY_IMPORT[room]} if room else set()
    return [
        f"{path.name}:{line}: {room or 'avatar'} may not import {module}"
        for line, module in imported_modules(tree, path)
        if module.startswith("avatar.") and module != "avatar.__version__" and room_of(module) not in allowed
    ]


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions and classes that others may use: those of the module, and the methods of public classes.

    Overloads and property setters are described where the function itself is.
    """
    bodies: list[list[ast.stmt]] = [tree.body]
    for body in bodies:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
            if not node.name.startswith("_") and not marks & {"overload", "setter"}:
                yield node
                if isinstance(node, ast.ClassDef):
                    bodies.append(node.body)


def unannotated(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> list[str]:
    """Arguments of a function without a type, and "return" where its result has none."""
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    args += [arg for arg in (node.args.vararg, node.args.kwarg) if arg]
    names = [arg.arg for arg in args if arg.annotation is None]
    if is_method:
        names = [name for name in names if name not in ("self", "cls")]
    return names + (["return"] if node.returns is None else [])


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


FILES = library_files()
each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])


def test_top_level_folders_are_exactly_the_fixed_ones():
    found = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))}
    found -= {name for name in found if name in MADE or name.endswith(".egg-info")}
    assert found == TOP_LEVEL


def test_the_library_has_only_the_rooms_of_the_plan():
    found = {p.name for p in (ROOT / "avatar").iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert found <= ROOMS
    modules = {p.stem for p in (ROOT / "avatar").glob("*.py")} - {"__init__"}
    assert modules <= set(MAY_IMPORT), "a new module of avatar/ needs its place among the arrows of this test"


def test_every_folder_of_modules_is_a_package():
    """A folder without __init__.py is silently left out of the wheel."""
    folders = {path.parent for path in FILES}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_room_for_odds_and_ends():
    names = [*FILES, *(ROOT / "tests").rglob("*.py"), *(p for p in (ROOT / "csrc").rglob("*") if p.is_file())]
    vague = [
        str(p.relative_to(ROOT)) for p in names if VAGUE & {part.split(".")[0] for part in p.relative_to(ROOT).parts}
    ]
    assert vague == []


@each_file
def test_imports_follow_the_arrows(path: Path):
    assert wrong_arrows(parse(path), path) == []


def is_overload(node: ast.AST) -> bool:
    """A signature only: the function that follows says what it does."""
    return any(getattr(d, "id", "") == "overload" for d in getattr(node, "decorator_list", []))


@each_file
def test_public_names_have_a_docstring(path: Path):
    tree = parse(path)
    missing = [
        f"{path.name}:{node.lineno} {node.name}"
        for node in public_definitions(tree)
        if not ast.get_docstring(node) and not is_overload(node)
    ]
    assert missing == []
    assert ast.get_docstring(tree), f"{path.name} says nothing about itself"


@each_file
def test_every_function_is_annotated(path: Path):
    tree = parse(path)
    methods = {id(item) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body}
    missing = [
        f"{path.name}:{node.lineno} {node.name}: {', '.join(names)}"
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (names := unannotated(node, id(node) in methods))
    ]
    assert missing == []


@each_file
def test_the_page_is_quiet(path: Path):
    """No print, no bare except, no star import, no eval or pickle."""
    loud = []
    for node in ast.walk(parse(path)):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "eval", "exec"):
            loud.append(f"{where} {node.func.id}()")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            loud.append(f"{where} bare except")
        if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
            loud.append(f"{where} star import")
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            loud.append(f"{where} from pickle import")
    assert loud == []


@each_file
def test_the_library_reads_only_the_four_environment_variables_of_its_own(path: Path):
    known = {"AVATAR_DATA", "AVATAR_HEADS", "AVATAR_FACE_LANDMARKER", "AVATAR_CACHE"}
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"[\"'](AVATAR_[A-Z_]+)[\"']", text)) <= known


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("avatar/geometry/uv.py", "from avatar.ops import adam"),
        ("avatar/ops/skin.py", "from avatar.head.model import HeadModel"),
        ("avatar/ops/skin.py", "def f():\n    import avatar.train.fit"),
        ("avatar/render/mesh.py", "from ..model import binding"),
        ("avatar/train/fit.py", "from avatar import scenes"),
        ("avatar/train/fit.py", "from avatar.track import fit"),
        ("avatar/track/fit.py", "from avatar import train"),
        ("scenes/nersemble.py", "from avatar.render import rasterize"),
        ("viewer/app.py", "from avatar.train.fit import fit"),
        ("configs/presets.py", "import avatar.viewer"),
        ("avatar/head/flame.py", "from avatar.cli import main"),
        ("avatar/__init__.py", "from . import ops"),
    ],
)
def test_an_import_against_the_arrows_is_noticed(file: str, source: str):
    assert len(wrong_arrows(ast.parse(source), ROOT / file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("avatar/ops/skin.py", "from avatar.ops._native import ops\nfrom avatar.types import MeshState"),
        ("avatar/train/fit.py", "from avatar.render import rasterize\nfrom .losses import LOSSES\nimport torch"),
        ("scenes/nersemble.py", "from avatar.geometry import cameras\nfrom avatar.types import Scene"),
        ("avatar/cli.py", "from avatar import __version__\nfrom avatar.viewer import app"),
    ],
)
def test_imports_along_the_arrows_are_fine(file: str, source: str):
    assert wrong_arrows(ast.parse(source), ROOT / file) == []


def test_a_definition_without_docstring_or_types_is_noticed():
    tree = ast.parse(
        "class A:\n    def b(self, c): pass\n    def _d(self): pass\n    @b.setter\n    def s(self, v): pass\n"
        "def e(f: int) -> int: ...\n@typing.overload\ndef o(): ..."
    )
    assert [node.name for node in public_definitions(tree)] == ["A", "e", "b"]
    method = tree.body[0].body[0]  # type: ignore[attr-defined]
    assert unannotated(method, is_method=True) == ["c", "return"]
    assert unannotated(tree.body[1], is_method=False) == []  # type: ignore[arg-type]
