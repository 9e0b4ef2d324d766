"""The command line: `avatar COMMAND`, one row of a table and one function each.

Nothing heavy is imported here, so that --help answers at once; commands import what they need.
Exit codes: 0 done, 1 failed with one line on stderr, 2 wrong usage, 130 and 143 interrupted.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from avatar import __version__

JsonFile = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Suites = Annotated[
    tuple[Literal["raster", "loss", "head", "mesh", "bind", "train", "viewer", "audio"], ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="SUITE ..."),
]


class NotBuiltYet(Exception):
    """A command of the contract that this version cannot carry out."""


def demo(out: Path = Path("out/demo")) -> int:
    """Show what the engine does, without any data of yours.

    Args:
        out: Folder for the pictures and the video; made where it is missing.
    """
    from avatar.demo import run

    run(out)
    return 0


def heads(render: Path | None = None, head: str = "open_head", json: JsonFile = None) -> int:
    """List the parametric heads: found, looked for, and how to get them.

    Args:
        render: Draw identities, angles and every expression of one head into this picture.
        head: The head to draw.
        json: Write the list here as JSON; - is standard output.
    """
    from avatar.files import write_json
    from avatar.head import available_heads, load

    found = available_heads()
    for status in found:
        say(f"{'found' if status.available else 'absent':<7} {status.source.name:<17} {status.source.about}")
        if status.path is not None:
            say(f"{'':<7} {status.path}")
        elif not status.available:
            say(f"{'':<7} looked for: {', '.join(str(path) for path in status.searched)}")
            say(f"{'':<7} to get it: {status.source.how_to_get}")
    if json is not None:
        rows = [
            {
                "name": status.source.name,
                "available": status.available,
                "path": None if status.path is None else str(status.path),
                "searched": [str(path) for path in status.searched],
                "how_to_get": status.source.how_to_get,
            }
            for status in found
        ]
        write_json(json, rows)
    if render is not None:
        from avatar.contact_sheet import contact_sheet, save_picture

        save_picture(render, contact_sheet(load(head)))
        say(f"drawn: {render}")
    return 0


def doctor(json: JsonFile = None) -> int:
    """Look at this machine: Python, compiler, torch, operators, GPU, packages, head models, disk, port.

    Args:
        json: Write the findings here as JSON; - is standard output.
    """
    from avatar.doctor import examine, lines, report
    from avatar.files import write_json

    findings = examine()
    for line in lines(findings):
        say(line)
    if json is not None:
        write_json(json, report(findings))
    broken = [finding.name for finding in findings if finding.status == "fail"]
    if broken:
        say(f"error: broken: {', '.join(broken)}; the lines marked fail say what to do")
    return 1 if broken else 0


def bench(
    suites: Suites = (),
    quick: bool = False,
    gate: bool = False,
    update_baseline: bool = False,
    isa: Literal["scalar", "avx2", "avx512"] | None = None,
    json: JsonFile = None,
) -> int:
    """Measure speed against peers timed in the same process.

    Args:
        suites: What to measure: raster, loss, head, mesh, bind, train, viewer, audio. All that exist if none is named.
        quick: Fewer rounds, for a first look and for CI.
        gate: Fail if a ratio stays below the committed baseline of this kind of device.
        update_baseline: Make the ratios measured now the baseline.
        isa: Measure with a lower instruction set than the processor's best.
        json: Write the numbers here as JSON, a list of {key, value, unit, direction}; - is standard output.
    """
    from avatar.bench import runner
    from avatar.files import write_json
    from avatar.ops import _native

    chosen = {name: runner.load(name) for name in suites or runner.built_suites()}
    with _native.use_isa(isa or _native.isa()):
        say(runner.conditions())
        baseline = runner.read_baseline(runner.baseline_file()) if gate else None
        report = runner.run(chosen, quick, baseline, say)
        say(runner.conditions())
        if runner.warning():
            say(runner.warning())
        if update_baseline:
            runner.update_baseline(runner.baseline_file(), report.metrics)
    if json is not None:
        write_json(json, runner.rows(report.metrics))
    for failure in report.failures:
        say(f"error: {failure}")
    return 1 if report.failures else 0


@dataclass(frozen=True)
class Command:
    """One row of `avatar --help`."""

    sentence: str
    """What it does."""
    examples: tuple[str, ...]
    """Calls to copy."""
    run: Callable[..., int] | None = None
    """The function that does it and returns the exit code; None where later work still has to write it."""

    def help(self) -> str:
        """Text of the command's --help: the sentence and the examples."""
        later = f"\n\nNot built yet in version {__version__}." if self.run is None else ""
        return f"{self.sentence}{later}\n\nExamples:\n" + "\n".join(f"  {example}" for example in self.examples)


COMMANDS = {
    "demo": Command(
        "Show what the engine does, without any data of yours: pictures and a video in a folder.",
        ("avatar demo --out out/demo",),
        demo,
    ),
    "track": Command(
        "Find the head in a video: cameras, pose and expression of every frame, as a scene folder.",
        ("avatar track clip.mp4 --out scenes/anna", "avatar track a.mp4 b.mp4 --out scenes/anna --max-frames 600"),
    ),
    "check": Command(
        "Check a scene folder of any layout, and propose repairs.",
        ("avatar check scenes/anna", "avatar check scenes/anna --json -"),
    ),
    "fit": Command(
        "Fit an avatar to a scene folder or a video.",
        ("avatar fit quick clip.mp4 --out runs/anna", "avatar fit quick scenes/anna --out runs/anna --view --resume"),
    ),
    "eval": Command(
        "Measure a fitted avatar on held-out frames.",
        ("avatar eval runs/anna", "avatar eval runs/anna --scene scenes/other --json -"),
    ),
    "ablate": Command(
        "Fit with parts left out one by one, and compare.",
        ("avatar ablate scenes/anna --out runs/ablation",),
    ),
    "info": Command("Say what an avatar file or a run folder holds.", ("avatar info runs/anna",)),
    "train-audio": Command(
        "Learn how a person moves while talking, from runs or scenes with sound.",
        ("avatar train-audio scenes/anna scenes/ben --out models/talk",),
    ),
    "eval-audio": Command(
        "Measure how well lips follow the sound.",
        ("avatar eval-audio models/talk --track track.npz --video clip.mp4 --json -",),
    ),
    "drive": Command(
        "Move an avatar by sound, by a recorded motion or by another video.",
        ("avatar drive runs/anna --audio speech.wav --out talk.mp4",),
    ),
    "render": Command(
        "Render an avatar along a camera path.",
        ("avatar render runs/anna --path turntable --out turn.mp4",),
    ),
    "view": Command(
        "Open avatars in the browser, on this machine only unless told otherwise.",
        ("avatar view runs/anna", "avatar view demo --port 8081"),
    ),
    "export": Command(
        "Write an avatar for other programs: ply, spz, sog, gltf, html.",
        ("avatar export ply runs/anna --out anna.ply",),
    ),
    "import": Command(
        "Read an avatar that another program wrote.",
        ("avatar import point_cloud.ply --out runs/anna",),
    ),
    "synth": Command(
        "Make a synthetic person with ground truth, as a scene folder.",
        ("avatar synth --out scenes/made --cameras 8 --seconds 8 --seed 0",),
    ),
    "heads": Command(
        "List the parametric heads: found, looked for, and how to get them.",
        ("avatar heads", "avatar heads --render heads.png"),
        heads,
    ),
    "convert-head": Command(
        "Turn a licensed head model into the safe format that everything else reads.",
        ("avatar convert-head generic_model.pkl --out flame2023.safetensors",),
    ),
    "fit-many": Command(
        "Fit many people, each on a core or a GPU of its own.",
        ("avatar fit-many quick scenes/* --out runs",),
    ),
    "doctor": Command(
        "Look at this machine: what is there, what is missing, and the way out.",
        ("avatar doctor", "avatar doctor --json -"),
        doctor,
    ),
    "bench": Command(
        "Measure speed against peers timed in the same process.",
        ("avatar bench", "avatar bench raster loss --quick", "avatar bench --gate --json bench.json"),
        bench,
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code. `arguments` defaults to those of the process.

    Raises SystemExit for --help, wrong usage and SIGTERM, as argument parsers do.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _carry_out(words)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Exception as error:  # noqa: BLE001 - the one place where an error becomes a sentence
        if debug:
            traceback.print_exc()
        say(f"error: {sentence_of(error)}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def sentence_of(error: Exception) -> str:
    """An error as one line. Those that nobody meant to raise name their type and how to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, (NotBuiltYet, ValueError, OSError, ImportError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text} (this is a defect; --debug shows where)"


def working_commands() -> str:
    """The commands that this version carries out, as one text."""
    return ", ".join(f"avatar {name}" for name, command in COMMANDS.items() if command.run is not None)


def say(text: str) -> None:
    """One line for people, on stderr; stdout belongs to machines."""
    sys.stderr.write(text + "\n")


def _carry_out(words: list[str]) -> int:
    name = words[0] if words else ""
    if words == ["--version"]:
        sys.stdout.write(__version__ + "\n")
        return 0
    command = COMMANDS.get(name)
    if command is not None and command.run is None and not {"-h", "--help"} & set(words):
        raise NotBuiltYet(
            f"'avatar {name}' is not built yet in version {__version__}; what works today: {working_commands()}"
        )
    app = tyro.extras.SubcommandApp()
    for other, row in COMMANDS.items():
        app.command(name=other, help=row.help() if other == name else row.sentence)(row.run or _nothing)
    result: int = app.cli(
        prog="avatar",
        description=(
            f"Gaussian-splatting head avatars, version {__version__}.\n\n"
            "Exit codes: 0 done, 1 failed (one line on stderr; --debug adds the traceback), 2 wrong usage, "
            "130 and 143 interrupted.\n\n"
            "Examples:\n  avatar doctor\n  avatar demo --out out/demo\n  avatar fit --help"
        ),
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return result


def _nothing() -> int:
    """Stands in the parser for a command that is not built yet."""
    return 1


def _terminate(signum: int, frame: object) -> None:
    """SIGTERM becomes an exception, so that whoever holds unsaved state can save it on the way out."""
    say("terminated")
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
