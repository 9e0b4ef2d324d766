"""`avatar doctor`: what this machine has, what is missing, and the way out of each."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avatar import __version__

Status = Literal["ok", "absent", "warn", "fail"]
OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 11)  # the stable ABI that the operators are built against
DISK_GB = 2.0  # a fitted avatar with its checkpoints and pictures takes about this much
VIEWER_PORT = 8080


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    """What was looked at."""
    status: Status
    """One of ok, absent (optional and not there), warn (slower, or a part is refused), fail (nothing will run)."""
    text: str
    """What was found."""
    fix: str = ""
    """The way out; empty where none is needed."""


@dataclass(frozen=True)
class Extra:
    """A package that adds something and is not needed otherwise."""

    distribution: str
    """Name for pip."""
    enables: str
    """What the engine can do with it."""
    fix: str
    """How to get it."""


REQUIRED = ("numpy", "scipy", "av", "imageio", "opencv-python-headless", "safetensors", "tyro", "viser", "rich")
EXTRAS = (
    Extra("mediapipe", "face landmarks when tracking a video", "pip install 'avatar-engine[track]'"),
    Extra("pocketsphinx", "phones from speech, for driving by audio", "pip install 'avatar-engine[audio]'"),
    Extra("soundfile", "reading and writing wav and flac", "pip install 'avatar-engine[audio]'"),
    Extra("lpips", "the LPIPS metric", "pip install --no-deps lpips (with dependencies it would replace torch)"),
    Extra("gsplat", "the gsplat backend on an NVIDIA GPU", "pip install 'avatar-engine[gpu]'"),
    Extra("pytorch3d", "a second mesh rasteriser to compare with", "build it from its source; it is not on PyPI"),
    Extra("tinycudann", "hash-grid fields on an NVIDIA GPU", "build it from its source; it is not on PyPI"),
    Extra("plyfile", "checking our PLY files against another reader", "pip install 'avatar-engine[ply]'"),
)
HARMFUL = ("torchvision", "torchaudio", "torchcodec")  # beside a CPU torch their import fails and breaks others


def examine() -> list[Finding]:
    """Look at everything, in the order in which one thing needs the other."""
    looks: Sequence[Callable[[], Iterator[Finding]]] = (
        look_at_python,
        look_at_compiler,
        look_at_torch,
        look_at_operators,
        look_at_cuda,
        look_at_packages,
        look_at_heads,
        look_at_environment,
        look_at_disk,
        look_at_port,
    )
    return [finding for look in looks for finding in look()]


def report(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings for machines: {version, status, findings: [{name, status, text, fix}]}; status is "ok" or "fail"."""
    broken = any(f.status == "fail" for f in findings)
    return {"version": __version__, "status": "fail" if broken else "ok", "findings": [vars(f) for f in findings]}


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings for people, one or two lines each."""
    for finding in findings:
        yield f"{finding.status:<7} {finding.name:<22} {finding.text}"
        if finding.fix:
            yield f"{'':<30} -> {finding.fix}"


def look_at_python() -> Iterator[Finding]:
    """Interpreter, platform, processor."""
    version = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        yield Finding("python", "ok", f"{version} at {sys.executable}")
    else:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield Finding("python", "fail", version, f"use Python {wanted} or newer: make demo PYTHON=python{wanted}")
    yield Finding("machine", "ok", f"{platform.platform()}, {processor_name()}, {usable_cores()} cores")


def look_at_compiler() -> Iterator[Finding]:
    """The C++ compiler, needed only where the operators are built."""
    command = find_compiler()
    if command is None:
        yield Finding(
            "compiler", "warn", "no C++ compiler found; an installed package runs without one",
            "to build from source, install g++ 11 or clang 14 or newer, or set CXX",
        )  # fmt: skip
    else:
        yield Finding("compiler", "ok", next(iter(_output([*command, "--version"]).splitlines()), command[0]))


def look_at_torch() -> Iterator[Finding]:
    """torch, and the CUDA release it was built for."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "fail", f"cannot be imported: {error}", "pip install torch, or make demo")
        return
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    text = f"{torch.__version__} ({built_for})"
    if _numbers(torch.__version__) < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        yield Finding("torch", "fail", text, f"the operators need torch {wanted} or newer: pip install -U torch")
    else:
        yield Finding("torch", "ok", text)


def look_at_operators() -> Iterator[Finding]:
    """Whether the compiled operators load, with which instruction set, on how many threads."""
    try:
        import torch

        from avatar.ops._native import available_isas, isa
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(
            "operators", "fail", f"cannot be loaded: {' '.join(str(error).split())}",
            "pip install --no-build-isolation -e . in the checkout; needs a C++20 compiler and the torch in use",
        )  # fmt: skip
        return
    yield Finding("operators", "ok", "compiled CPU operators loaded")
    chosen, possible = isa(), available_isas()
    yield Finding(
        "instruction set",
        "ok" if chosen != "scalar" else "warn",
        f"{chosen} (this processor can: {', '.join(possible)})",
        "" if chosen != "scalar" else "everything works, several times slower than with AVX2 or AVX-512",
    )
    threads, cores = torch.get_num_threads(), usable_cores()
    fine = threads <= cores
    yield Finding(
        "threads", "ok" if fine else "warn", f"{threads} for {cores} usable cores",
        "" if fine else f"more threads than cores slow each other down: set OMP_NUM_THREADS={cores}",
    )  # fmt: skip
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        yield Finding(
            "OMP_WAIT_POLICY", "warn", "active: waiting threads burn cores that others need", "unset OMP_WAIT_POLICY"
        )


def look_at_cuda() -> Iterator[Finding]:
    """GPUs, the CUDA toolkit, and whether the toolkit fits torch."""
    nvcc = find_nvcc()
    answer = _output([nvcc, "--version"]) if nvcc else ""
    release = re.search(r"release ([\d.]+)", answer)
    toolkit = release.group(1) if release else None
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    wanted = torch.version.cuda
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("gpu", "ok", ", ".join(names))
    elif wanted:
        yield Finding("gpu", "absent", "none usable; torch was built for CUDA, the CPU operators are used")
    else:
        yield Finding("gpu", "absent", "none used: torch is the CPU build; everything runs on the CPU")
    if toolkit is None:
        yield Finding("nvcc", "absent", "no CUDA toolkit; needed only to build or check the CUDA operators")
    elif wanted is None:
        yield Finding("nvcc", "ok", f"{toolkit} at {nvcc}; beside a CPU torch it serves make check-cuda only")
    elif toolkit.split(".")[0] != wanted.split(".")[0]:
        yield Finding(
            "nvcc", "warn", f"{toolkit} at {nvcc}, but torch was built for CUDA {wanted}",
            f"install a CUDA {wanted} toolkit and point CUDA_HOME at it, or a torch built for CUDA {toolkit}",
        )  # fmt: skip
    else:
        yield Finding("nvcc", "ok", f"{toolkit} at {nvcc} fits torch's CUDA {wanted}")


def look_at_packages() -> Iterator[Finding]:
    """Python packages: needed, optional, harmful."""
    versions = {name: _version(name) for name in REQUIRED}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding("packages", "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
    for package in EXTRAS:
        version = _version(package.distribution)
        if version is None:
            yield Finding(package.distribution, "absent", f"would enable {package.enables}", package.fix)
        else:
            yield Finding(package.distribution, "ok", f"{version}: {package.enables}")
    for name in HARMFUL:
        if _version(name) is not None:
            yield Finding(
                name, "warn", f"{_version(name)}: not used here, and built for one exact torch; often breaks imports",
                f"pip uninstall {name}, or keep it in another environment",
            )  # fmt: skip


def look_at_heads() -> Iterator[Finding]:
    """Parametric heads found, and where the others were looked for."""
    from avatar.head import available_heads

    for head in available_heads():
        if head.available:
            yield Finding(head.source.name, "ok", head.source.about if head.path is None else str(head.path))
        else:
            yield Finding(head.source.name, "absent", f"{head.source.about}; not found", head.source.how_to_get)


def look_at_environment() -> Iterator[Finding]:
    """The four environment variables that the engine reads."""
    meanings = {
        "AVATAR_DATA": "test and example data",
        "AVATAR_HEADS": "licensed head models",
        "AVATAR_FACE_LANDMARKER": "the face_landmarker.task file for tracking",
        "AVATAR_CACHE": "downloads and built artefacts, else ~/.cache/avatar",
    }
    for name, meaning in meanings.items():
        value = os.environ.get(name)
        missing = [path for path in (value or "").split(os.pathsep) if path and not Path(path).expanduser().exists()]
        if not value:
            yield Finding(name, "absent", f"not set ({meaning})")
        elif missing and name != "AVATAR_CACHE":  # the cache is made when something first goes into it
            yield Finding(name, "warn", f"{', '.join(missing)} does not exist ({meaning})", f"correct or unset {name}")
        else:
            yield Finding(name, "ok", f"{value} ({meaning})")


def look_at_disk() -> Iterator[Finding]:
    """Room for runs where the command was called."""
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        yield Finding("disk", "warn", f"{folder} cannot be written", "give --out a folder of your own")
    elif free < DISK_GB:
        yield Finding("disk", "warn", f"{free:.1f} GB free at {folder}", f"a run takes {DISK_GB:.0f} GB: make room")
    else:
        yield Finding("disk", "ok", f"{free:.0f} GB free at {folder}")


def look_at_port(port: int = VIEWER_PORT) -> Iterator[Finding]:
    """Whether the viewer's port is free on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            yield Finding("port", "warn", f"{port} cannot be used: {error.strerror}", "avatar view RUN --port 8081")
        else:
            yield Finding("port", "ok", f"{port} is free for the viewer")


def processor_name() -> str:
    """The processor as its maker calls it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return model.group(1).strip() if model else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_compiler() -> list[str] | None:
    """Command of the C++ compiler that a build would use: CXX, else Python's own, else the usual names."""
    configured = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or ""
    for command in (shlex.split(configured), ["c++"], ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command[:1]
    return None


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, /usr/local/cuda or PATH, as setup.py looks for it."""
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").exists():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: "2.13.0+cpu" is (2, 13)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
