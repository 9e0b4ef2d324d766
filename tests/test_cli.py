"""The command line is a contract: names, exit codes, one line per error, numbers on stdout and words on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from avatar import __version__, cli

CONTRACT = (  # noqa: SIM905 - words read best as words
    "demo track check fit eval ablate info train-audio eval-audio drive render view export import synth heads doctor "
    "bench convert-head fit-many"
).split(" ")
PLANNED = [name for name, command in cli.COMMANDS.items() if command.run is None]


def start(*arguments: str, **kwargs) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "avatar.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line in a process of its own."""
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_every_command_of_the_contract_is_there():
    assert sorted(cli.COMMANDS) == sorted(CONTRACT)


def test_help_lists_every_command_with_its_sentence():
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    flat = " ".join(out.replace("│", " ").split())
    for name, command in cli.COMMANDS.items():
        assert f"• {name} {command.sentence}" in flat


@pytest.mark.parametrize("name", CONTRACT)
def test_every_command_explains_itself_with_examples(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"avatar {name} " in out.split("Examples:")[1] + " "
    assert ("Not built yet" in out) == (name in PLANNED)


@pytest.mark.parametrize("name", CONTRACT)
def test_examples_name_the_command_they_are_of(name: str):
    command = cli.COMMANDS[name]
    assert all(example == f"avatar {name}" or example.startswith(f"avatar {name} ") for example in command.examples)
    assert command.sentence.endswith(".")


def test_help_imports_nothing_heavy():
    """What keeps --help under a second: starting Python and importing tyro is all that it may cost."""
    program = """
import sys
from avatar import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
sys.stderr.write(" ".join({"torch", "numpy", "scipy", "cv2", "av", "viser"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert "doctor" in done.stdout


@pytest.mark.parametrize("name", PLANNED)
def test_a_command_that_later_work_brings_says_so(name: str, capsys: pytest.CaptureFixture[str]):
    """Whatever else stands on the line: nobody should hunt for a wrong flag of a command that cannot run at all."""
    assert cli.main([name, "input.mp4", "--out", "somewhere", "-x"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: 'avatar {name}' is not built yet in version {__version__}; ")
    assert "avatar doctor" in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["doctor", "--nonsense"], ["bench", "nonsense"], ["doctor", "--json"]]
)
def test_wrong_usage_is_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "help" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def failing(error: Exception):
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("weights must be [V, J],\n  got [3]"), "error: weights must be [V, J], got [3]"),
        (FileNotFoundError(2, "No such file", "a.mp4"), "error: [Errno 2] No such file: 'a.mp4'"),
        (KeyError("jaw"), "error: KeyError: 'jaw' (this is a defect; --debug shows where)"),
        (ValueError(), "error: ValueError:  (this is a defect; --debug shows where)"),
    ],
)
def test_an_error_is_one_line_and_exit_1(error: Exception, line: str, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "info", cli.Command("Fail.", ("avatar info",), failing(error)))
    assert cli.main(["info"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == line + "\n"


@pytest.mark.parametrize("words", [["--debug", "info"], ["info", "--debug"]])
def test_debug_adds_the_traceback(words: list[str], monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "info", cli.Command("Fail.", ("avatar info",), failing(ValueError("bad"))))
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: bad\n")


def test_control_c_is_exit_130(monkeypatch, capsys):
    def run() -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "info", cli.Command("Wait.", ("avatar info",), run))
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


WAITING = """
import sys, time
from avatar import cli
def wait() -> int:
    try:
        sys.stdout.write("ready\\n"); sys.stdout.flush(); time.sleep(60)
    finally:
        sys.stdout.write("saved\\n")
    return 0
cli.COMMANDS["info"] = cli.Command("Wait.", ("avatar info",), wait)
sys.exit(cli.main(["info"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_can_save_its_work(number: int, code: int):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == "saved\n"
    assert "Traceback" not in err


def test_main_leaves_the_signal_handlers_of_its_caller_alone():
    before = signal.getsignal(signal.SIGTERM)
    cli.main(["fit-many" if "fit-many" in PLANNED else "--version"])
    assert signal.getsignal(signal.SIGTERM) == before


def test_json_dash_is_alone_on_stdout():
    code, out, err = call("doctor", "--json", "-")
    report = json.loads(out)
    assert code == (1 if report["status"] == "fail" else 0)
    assert "python" in err


def test_json_into_a_missing_folder_is_one_line(tmp_path: Path, capsys):
    assert cli.main(["doctor", "--json", str(tmp_path / "no" / "a.json")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: cannot write {tmp_path / 'no' / 'a.json'}: ")


def test_bench_without_a_baseline_folder_says_what_to_do(tmp_path: Path, monkeypatch, capsys):
    from avatar.bench import runner

    monkeypatch.setattr(runner, "checkout", lambda: None)
    monkeypatch.setattr(runner, "load", lambda name: lambda quick: [])
    assert cli.main(["bench", "--quick", "--gate"]) == 1
    assert "run avatar bench from a checkout" in capsys.readouterr().err


def test_bench_of_a_suite_that_is_not_built_says_so(capsys):
    from avatar.bench.runner import built_suites

    missing = [name for name in ("viewer", "audio") if name not in built_suites()]
    for name in missing:
        assert cli.main(["bench", name]) == 1
        assert f"'{name}' is not built yet; there are: " in capsys.readouterr().err


def test_bench_measures_and_writes_the_contract(tmp_path: Path, monkeypatch, capsys):
    from avatar.bench import runner

    def suite(quick: bool) -> list[dict[str, object]]:
        assert quick
        return [{"key": "train.x.ms", "value": 2.0, "unit": "ms", "direction": "lower"}]

    monkeypatch.setattr(runner, "load", lambda name: suite)
    assert cli.main(["bench", "train", "--quick", "--json", str(tmp_path / "b.json")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())
    assert rows == [{"key": "train.x.ms", "value": 2.0, "unit": "ms", "direction": "lower"}]
    said = capsys.readouterr()
    assert said.out == ""
    assert "load" in said.err
    assert "train.x.ms" in said.err


def test_stdin_is_never_waited_for():
    process = start("doctor", stdin=subprocess.DEVNULL, env={**os.environ, "AVATAR_CACHE": "/nonexistent"})
    _, err = process.communicate(timeout=60)
    assert "python" in err


def test_threads_wait_without_spinning_unless_the_user_says_otherwise():
    code = "import os, avatar; print(os.environ['OMP_WAIT_POLICY'])"
    for given, want in ((None, "passive"), ("active", "active")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if given:
            environment["OMP_WAIT_POLICY"] = given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == want
