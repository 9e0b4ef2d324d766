"""The doctor names what is broken and the way out, and only what is needed makes it fail."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar import cli, doctor
from avatar.doctor import Finding


def only(findings: Iterator[Finding], name: str) -> Finding:
    """The one finding of that name."""
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def put_program(folder: Path, name: str, says: str) -> Path:
    """An executable that prints a text."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_a_machine_that_runs_these_tests_is_healthy():
    findings = doctor.examine()
    assert [finding for finding in findings if finding.status == "fail"] == []
    names = {finding.name for finding in findings}
    assert {"python", "machine", "compiler", "torch", "operators", "instruction set", "threads", "gpu", "nvcc"} <= names
    assert {"packages", "mediapipe", "gsplat", "lpips", "AVATAR_HEADS", "AVATAR_CACHE", "disk", "port"} <= names


def test_every_problem_has_a_way_out():
    for finding in doctor.examine():
        assert finding.status in ("ok", "absent", "warn", "fail")
        assert finding.text
        if finding.status in ("warn", "fail"):
            assert finding.fix, finding.name


def test_the_report_is_json_and_fails_only_by_what_is_needed():
    fine = [Finding("a", "ok", "x"), Finding("b", "absent", "x"), Finding("c", "warn", "x", "do y")]
    assert json.loads(json.dumps(doctor.report(fine)))["status"] == "ok"
    broken = doctor.report([*fine, Finding("torch", "fail", "x", "do y")])
    assert broken["status"] == "fail"
    assert broken["findings"][-1] == {"name": "torch", "status": "fail", "text": "x", "fix": "do y"}


def test_people_see_the_fix_under_the_finding():
    shown = list(doctor.lines([Finding("port", "warn", "taken", "use another"), Finding("disk", "ok", "90 GB")]))
    assert [line.split() for line in shown] == [
        ["warn", "port", "taken"],
        ["->", "use", "another"],
        ["ok", "disk", "90", "GB"],
    ]


def test_something_broken_is_exit_1_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(
        doctor, "examine", lambda: [Finding("torch", "fail", "cannot be imported", "pip install torch")]
    )
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: broken: torch;")


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    assert only(doctor.look_at_python(), "python").status == "fail"


def test_an_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "OLDEST_TORCH", (99, 0))
    finding = only(doctor.look_at_torch(), "torch")
    assert finding.status == "fail"
    assert "99.0" in finding.fix


def test_missing_torch_is_one_finding_and_not_a_crash(tmp_path: Path):
    """In a process where torch cannot be imported at all."""
    program = (
        "import sys; sys.modules['torch'] = None\nfrom avatar import doctor\n"
        "found = [*doctor.look_at_torch(), *doctor.look_at_operators()]\n"
        "sys.stdout.write(' '.join(f.name + ':' + f.status for f in found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "torch:fail operators:fail", done.stderr


def test_versions_compare_as_numbers():
    assert doctor._numbers("2.9.1+cpu") < doctor._numbers("2.11.0") <= doctor._numbers("2.11.0a0+git1")


def test_the_compiler_is_the_one_a_build_would_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    mine = put_program(tmp_path, "my++", "my++ 42")
    monkeypatch.setenv("CXX", f"{mine} -O1")
    assert only(doctor.look_at_compiler(), "compiler").text == "my++ 42"


def test_no_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(doctor.look_at_compiler(), "compiler")
    assert finding.status == "warn"
    assert "g++" in finding.fix


@pytest.mark.parametrize(
    ("toolkit", "built_for", "status"),
    [("13.0", "13.0", "ok"), ("13.1", "13.0", "ok"), ("12.8", "13.0", "warn"), ("13.0", None, "ok")],
)
def test_the_cuda_toolkit_must_fit_torch(monkeypatch, tmp_path: Path, toolkit: str, built_for: str | None, status: str):
    import torch

    put_program(tmp_path, "bin/nvcc", f"Cuda compilation tools, release {toolkit}, V{toolkit}.88")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", built_for)
    finding = only(doctor.look_at_cuda(), "nvcc")
    assert finding.status == status
    assert toolkit in finding.text


def test_no_cuda_toolkit_is_fine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "find_nvcc", lambda: None)
    assert only(doctor.look_at_cuda(), "nvcc").status == "absent"


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    finding = only(doctor.look_at_operators(), "threads")
    assert finding.status == "warn"
    assert "OMP_NUM_THREADS=2" in finding.fix


def test_the_chosen_instruction_set_is_shown():
    from avatar.ops._native import use_isa

    with use_isa("scalar"):
        finding = only(doctor.look_at_operators(), "instruction set")
    assert finding.status == "warn"
    assert finding.text.startswith("scalar (this processor can: scalar")


def test_a_missing_required_package_fails_and_an_optional_one_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("scipy", "gsplat") else "1.0")
    findings = list(doctor.look_at_packages())
    assert only(iter(findings), "packages").status == "fail"
    assert only(iter(findings), "packages").fix == "pip install scipy"
    assert only(iter(findings), "gsplat").status == "absent"
    assert only(iter(findings), "mediapipe").status == "ok"
    assert only(iter(findings), "torchvision").status == "warn"


def test_required_packages_are_those_the_distribution_asks_for():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    block = text.split("\ndependencies = [")[1].split("]")[0]
    asked = {line.strip().strip('",').split(">")[0].split("=")[0] for line in block.splitlines() if line.strip()}
    assert asked == {"torch", *doctor.REQUIRED}


def test_environment_variables_that_point_nowhere_are_warned_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AVATAR_HEADS", f"{tmp_path}:{tmp_path / 'missing'}")
    monkeypatch.setenv("AVATAR_DATA", str(tmp_path))
    monkeypatch.setenv("AVATAR_CACHE", str(tmp_path / "made when needed"))
    monkeypatch.delenv("AVATAR_FACE_LANDMARKER", raising=False)
    findings = {finding.name: finding for finding in doctor.look_at_environment()}
    assert findings["AVATAR_HEADS"].status == "warn"
    assert findings["AVATAR_HEADS"].text.startswith(f"{tmp_path / 'missing'} does not exist")
    assert findings["AVATAR_DATA"].status == "ok"
    assert findings["AVATAR_CACHE"].status == "ok"
    assert findings["AVATAR_FACE_LANDMARKER"].status == "absent"


def test_a_taken_port_is_a_warning_and_a_free_one_is_fine():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert only(doctor.look_at_port(port), "port").status == "warn"
    assert only(doctor.look_at_port(port), "port").status == "ok"


def test_a_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "DISK_GB", 1e9)
    finding = only(doctor.look_at_disk(), "disk")
    assert finding.status == "warn"
    assert str(tmp_path) in finding.text
