"""Builds the C++ (and, where a toolkit is present, CUDA) operators; maps the fixed top-level folders into the package.

pip install --no-build-isolation .     build and install
python setup.py check_cuda             compile every .cu for Hopper, warnings as errors; skipped where nvcc is absent
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

try:
    from torch.utils.cpp_extension import include_paths, library_paths
except ImportError:
    sys.exit(
        "avatar-engine builds against the torch that will run it, and none is installed here.\n"
        "Install it first (pip install torch), then: pip install --no-build-isolation ."
    )

ROOT = Path(__file__).parent
MAPPED = {"avatar.scenes": "scenes", "avatar.configs": "configs", "avatar.viewer": "viewer"}
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11: one binary serves it and every later release
ISA_FLAGS = {  # kernels for wide instructions live in files of their own; the choice is made at run time
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi2", "-mfma", "-mavx2",
               "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
}  # fmt: skip
OBJECTS = f"build/objects-torch{version('torch')}"
KERNEL_REPORT = re.compile(  # what ptxas -v says of a kernel: name, bytes spilled out and back, registers
    r"Compiling entry function '(\w+)'(?:(?!Compiling).)*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r"(?:(?!Compiling).)*?Used (\d+) registers",
    re.S,
)


def sources(folder: str, suffix: str) -> list[str]:
    """Source files of one csrc folder, relative to this file, in a stable order."""
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / folder).glob(f"*{suffix}"))


def headers() -> list[str]:
    """Every header, relative to this file: a change in one rebuilds all."""
    files = (ROOT / "csrc").rglob("*.*")
    return sorted(str(p.relative_to(ROOT)) for p in files if p.suffix not in (".cpp", ".cu"))


def flags_for(source: str) -> list[str]:
    """Instruction-set flags of a file named <op>_<isa>.cpp; none elsewhere or on other processors."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    return ISA_FLAGS.get(Path(source).stem.rsplit("_", 1)[-1], [])


class BuildOperators(build_ext):
    """setuptools' build_ext with per-file instruction sets, files compiled side by side, and objects that are kept."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = OBJECTS  # pip gives an editable build a fresh folder, which would compile everything again

    def build_extension(self, ext: Extension) -> None:
        compiler = self.compiler
        compile_one = compiler._compile

        def with_isa(obj, src, ext_, cc_args, extra, pp_opts):  # type: ignore[no-untyped-def]
            # -g0: Python's own flags ask for debug information, ten times the size for a third more of the time
            compile_one(obj, src, ext_, cc_args, [*extra, "-g0", *flags_for(src)], pp_opts)

        def compile_all(files, output_dir=None, macros=None, include_dirs=None, debug=0,
                        extra_preargs=None, extra_postargs=None, depends=None):  # type: ignore[no-untyped-def]  # fmt: skip
            macros, objects, extra, pp_opts, build = compiler._setup_compile(
                output_dir, macros, include_dirs, files, depends, extra_postargs
            )
            cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)
            newest_header = max(os.path.getmtime(ROOT / header) for header in headers())

            def one(obj: str) -> None:
                src, suffix = build[obj]
                made = os.path.getmtime(obj) if os.path.exists(obj) else 0.0
                if made < max(os.path.getmtime(src), newest_header, os.path.getmtime(__file__)):
                    with_isa(obj, src, suffix, cc_args, extra, pp_opts)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(one, [o for o in objects if o in build]))
            return objects

        compiler.compile = compile_all
        super().build_extension(ext)


class CheckCuda(Command):
    """Compile every .cu for Hopper, warnings as errors, and print registers and spills of each kernel."""

    description = "compile the CUDA sources without a GPU"
    user_options: ClassVar = [("arch=", None, "compute capabilities, comma separated (default 90)")]

    def initialize_options(self) -> None:
        self.arch = "90"

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        files = sources("cuda", ".cu")
        nvcc = find_nvcc()
        if not files:
            print("check_cuda: no .cu files yet, nothing to compile")
        elif nvcc is None:
            print("check_cuda: skipped, nvcc not found (set CUDA_HOME or put nvcc on PATH)")
        else:
            jobs = [(nvcc, source, arch) for arch in self.arch.split(",") for source in files]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                failed = [error for error in pool.map(check_cuda_file, *zip(*jobs, strict=True)) if error]
            if failed:
                sys.exit("\n".join(failed))


def check_cuda_file(nvcc: str, source: str, arch: str) -> str:
    """Compile one .cu, print what ptxas says of its kernels, and return nvcc's complaints (empty if it has none)."""
    out = ROOT / "build" / "check_cuda"
    out.mkdir(parents=True, exist_ok=True)
    includes = [word for path in include_paths() for word in ("-isystem", path)]
    cmd = [nvcc, "-c", source, "-o", str(out / f"{Path(source).stem}_{arch}.o"), f"-arch=sm_{arch}", "-std=c++20",
           "-O3", "-Icsrc", STABLE_ABI, "-DUSE_CUDA", "-Werror", "all-warnings", "-Xptxas", "-v",
           "-diag-suppress", "20012", *includes]  # fmt: skip
    done = subprocess.run(cmd, cwd=ROOT, capture_output=True, text=True)
    lines = [f"sm_{arch} {source}: {'ok' if done.returncode == 0 else 'FAILED'}"]
    for kernel, stored, loaded, registers in KERNEL_REPORT.findall(done.stderr):
        lines.append(f"  {kernel}: {registers} registers, {stored} + {loaded} bytes spilled")
    print("\n".join(lines), flush=True)
    return "" if done.returncode == 0 else f"{source}:\n{done.stdout}{done.stderr}"


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, /usr/local/cuda or PATH. A wrapper on PATH hides its toolkit, hence the order."""
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").exists():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc")


def cpu_extension() -> Extension:
    """avatar._C: the CPU operators. Plain C++20 against torch's stable ABI, no Python headers needed at run time."""
    return Extension(
        "avatar._C",
        sources=["csrc/bindings.cpp", *sources("cpu", ".cpp")],
        depends=[*headers(), "setup.py"],
        include_dirs=["csrc", *include_paths()],
        library_dirs=library_paths(),
        libraries=["torch_cpu", "torch", "c10"],
        extra_compile_args=["-std=c++20", "-O3", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
                            "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi", "-Wno-maybe-uninitialized", STABLE_ABI],
        define_macros=[("Py_LIMITED_API", "0x030A0000")],
        py_limited_api=True,
        language="c++",
    )  # fmt: skip


setup(
    packages=find_packages(include=["avatar", "avatar.*"])
    + [name + sub for name, folder in MAPPED.items() for sub in ["", *("." + p for p in find_packages(folder))]],
    package_dir=MAPPED,
    package_data={"avatar.head": ["assets/*"], "avatar": ["py.typed"], "avatar.viewer": ["assets/*"]},
    ext_modules=[cpu_extension()],
    cmdclass={"build_ext": BuildOperators, "check_cuda": CheckCuda},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
