"""What gets installed: one top-level name, every file of ours, nothing else; and how CUDA sources are checked.

Tests marked packaging build and install the distribution (about a minute): make package.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from avatar import __version__
from avatar.doctor import find_nvcc

ROOT = Path(__file__).parent.parent
MAPPED = ("scenes", "configs", "viewer")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYTHON_FILES = [
    f"avatar/{path}" if path.parts[0] in MAPPED else str(path)
    for path in (found.relative_to(ROOT) for folder in ("avatar", *MAPPED) for found in (ROOT / folder).rglob("*.py"))
]


def run(*command: str | Path, **kwargs) -> subprocess.CompletedProcess[str]:
    """A finished process, its output captured as text."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **kwargs)


def requirements() -> list[str]:
    """Every requirement that pyproject.toml names, extras included."""
    project = PYPROJECT.split("[project]")[1].split("[project.scripts]")[0]
    lists = re.findall(r"^(?!license)[a-z-]+ = \[(.*?)\]$", project, re.S | re.M)
    return [name for text in lists for name in re.findall(r'"([^"]+)"', text)]


def test_the_version_is_stated_once_in_two_places_that_agree():
    assert f'version = "{__version__}"' in PYPROJECT


def test_no_requirement_can_replace_torch():
    """An unpinned torchvision, lpips or piq makes pip fetch another build of torch."""
    names = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in requirements()}
    assert {"torch", "numpy", "pytest", "gsplat"} <= names
    assert not names & {"torchvision", "torchaudio", "torchcodec", "lpips", "piq", "nvdiffrast", "chumpy"}


def test_torch_is_pinned_for_every_set_up():
    constraints = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==\d+\.\d+\.\d+$", constraints, re.M)
    assert "export PIP_CONSTRAINT := constraints.txt" in (ROOT / "Makefile").read_text()


def test_the_build_does_not_ask_for_a_torch_of_its_own():
    requires = re.search(r"^requires = (.*)$", PYPROJECT, re.M)
    assert requires is not None
    assert "torch" not in requires.group(1)


def test_every_requirement_is_justified():
    """One line each in CONTRIBUTING.md, which stays short enough to be read."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in requirements()}
    housekeeping = {"setuptools", "pytest-xdist"}
    assert [name for name in sorted(names - housekeeping) if name not in text.split("## Dependencies")[1]] == []
    assert len(text.splitlines()) <= 80


def test_every_source_file_of_the_operators_is_compiled():
    listed = run(sys.executable, "-c", PRINT_SOURCES, cwd=ROOT)
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "cpu").rglob("*.cpp")} | {"csrc/bindings.cpp"}
    assert set(listed.stdout.split()) == expected, listed.stderr


PRINT_SOURCES = """
import sys, setuptools
setuptools.setup = lambda **said: sys.stdout.write("\\n".join(said["ext_modules"][0].sources))
exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py", "__name__": "setup"})
"""


def test_setup_without_torch_is_one_clear_message(tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise ImportError('none')\n")
    done = run(sys.executable, "setup.py", "--version", cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "Install it first (pip install torch)" in done.stderr
    assert "Traceback" not in done.stderr


def test_mapped_folders_import_under_the_one_name():
    """From an installed, editable package as from a checkout on the path that maps nothing: skip only the latter."""
    done = run(sys.executable, "-c", "import avatar.scenes, avatar.configs, avatar.viewer", cwd="/")
    if "No module named 'avatar'" in done.stderr or ("avatar.scenes" in done.stderr and os.environ.get("PYTHONPATH")):
        pytest.skip("the package is not installed here, only on PYTHONPATH")
    assert done.returncode == 0, done.stderr


GOOD_KERNEL = "__global__ void twice(float* x) { x[threadIdx.x] *= 2.f; }\n"
UNUSED_VARIABLE = "__global__ void twice(float* x) { int unused; x[threadIdx.x] *= 2.f; }\n"


@pytest.fixture
def small_checkout(tmp_path: Path) -> Path:
    """setup.py with an empty csrc/cuda and nothing to build."""
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    for folder in ("avatar", *MAPPED, "csrc/cuda", "csrc/cpu"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("avatar", *MAPPED):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "csrc" / "config.h").touch()
    return tmp_path


def check_cuda(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "setup.py", "-q", "check_cuda", cwd=checkout, env={**os.environ, **environment})


def test_check_cuda_without_sources_has_nothing_to_do(small_checkout: Path):
    done = check_cuda(small_checkout)
    assert done.returncode == 0, done.stderr
    assert "no .cu files yet" in done.stdout


def test_check_cuda_without_a_toolkit_says_that_it_skips(small_checkout: Path):
    if Path("/usr/local/cuda/bin/nvcc").exists():
        pytest.skip("a toolkit is at /usr/local/cuda, which is always looked at")
    (small_checkout / "csrc" / "cuda" / "a.cu").write_text(GOOD_KERNEL)
    done = check_cuda(small_checkout, PATH="/nonexistent", CUDA_HOME="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "skipped, nvcc not found" in done.stdout


@pytest.mark.skipif(find_nvcc() is None, reason="nvcc not found")
def test_check_cuda_reports_kernels_and_refuses_warnings(small_checkout: Path):
    sources = small_checkout / "csrc" / "cuda"
    (sources / "good.cu").write_text(GOOD_KERNEL)
    done = check_cuda(small_checkout)
    assert done.returncode == 0, done.stderr
    assert "sm_90 csrc/cuda/good.cu: ok" in done.stdout
    assert re.search(r"twice\w*: \d+ registers, 0 \+ 0 bytes spilled", done.stdout)
    (sources / "bad.cu").write_text(UNUSED_VARIABLE)
    done = check_cuda(small_checkout)
    assert done.returncode == 1
    assert "sm_90 csrc/cuda/bad.cu: FAILED" in done.stdout
    assert "unused" in done.stderr


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, and the wheel built from it: what the archive forgets is missing there too."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.mark.packaging
def test_the_source_archive_holds_what_a_build_and_its_tests_need(distribution: Path):
    (archive,) = distribution.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "Makefile", "CONTRIBUTING.md"}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert wanted - names == set()
    assert [name for name in names if name.endswith((".so", ".pyc"))] == []


@pytest.mark.packaging
def test_the_wheel_installs_one_name_with_every_file_of_ours(distribution: Path):
    (wheel,) = distribution.glob("*.whl")
    assert re.match(r"avatar_engine-[\d.]+-cp310-abi3-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"avatar"}
    python = [name for name in names if name.endswith(".py")]
    assert sorted(python) == sorted(PYTHON_FILES)
    assert "avatar/py.typed" in names
    assert [name for name in names if re.fullmatch(r"avatar/_C\.\w+\.so", name)]
    assets = {f"avatar/{path.relative_to(ROOT / 'avatar')}" for path in (ROOT / "avatar").glob("*/assets/*")}
    assert assets - set(names) == set()


@pytest.mark.packaging
def test_the_wheel_works_away_from_its_sources(distribution: Path, tmp_path: Path):
    (wheel,) = distribution.glob("*.whl")
    done = run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel)
    assert done.returncode == 0, done.stderr
    program = (
        "import sys, avatar.scenes, avatar.configs, avatar.viewer\nfrom avatar.ops._native import isa\n"
        "from avatar.bench.runner import checkout\nsys.stdout.write(f'{avatar.__file__} {isa()} {checkout()}')"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = run(sys.executable, "-c", program, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    where, isa, checkout = done.stdout.split()
    assert where == str(tmp_path / "site" / "avatar" / "__init__.py")
    assert isa in ("scalar", "avx2", "avx512")
    assert checkout == "None"
    help_text = run(sys.executable, "-m", "avatar.cli", "--help", cwd=tmp_path, env=environment)
    assert help_text.returncode == 0, help_text.stderr
