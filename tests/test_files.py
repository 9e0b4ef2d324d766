"""A file is there completely or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from avatar.files import atomic_write, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"abc", "abc", lambda stream: stream.write(b"abc")])
def test_content_arrives_and_nothing_else_stays(tmp_path: Path, content):
    atomic_write(tmp_path / "a.bin", content)
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert names(tmp_path) == ["a.bin"]


def test_text_is_utf8(tmp_path: Path):
    atomic_write(str(tmp_path / "ä.txt"), "größe 人")
    assert (tmp_path / "ä.txt").read_text(encoding="utf-8") == "größe 人"


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail(stream):
        stream.write(b"half of the new")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic_write(target, fail)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_full_disk_leaves_the_old_file_and_names_the_path(tmp_path: Path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fill(stream):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"a\.bin: No space left on device"):
        atomic_write(target, fill)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path):
    """SIGKILL in the middle of the write, when most of the new content has been handed to the system."""
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    program = (
        "import sys, time\nfrom avatar.files import atomic_write\n"
        "def slow(stream):\n"
        "    stream.write(b'x' * 1_000_000); stream.flush(); print('half', flush=True); time.sleep(60)\n"
        "atomic_write(sys.argv[1], slow)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert target.read_bytes() == b"old"


def test_a_reader_never_sees_half_a_file(tmp_path: Path):
    target = tmp_path / "a.bin"
    contents = {bytes([letter]) * 200_000 for letter in b"abcd"}
    atomic_write(target, next(iter(contents)))
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            for content in contents:
                atomic_write(target, content)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert target.read_bytes() in contents
    finally:
        stop.set()
        writer.join()


def test_the_mode_of_a_file_stays_and_a_new_one_follows_the_umask(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.write_bytes(b"")
    kept.chmod(0o640)
    atomic_write(kept, b"new")
    assert kept.stat().st_mode & 0o777 == 0o640
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "fresh", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o640


def test_a_link_keeps_pointing_where_it_points(tmp_path: Path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path):
    """Replacing is for files: --json /dev/null must not turn the device into a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    atomic_write(pipe, b"abc")
    reader.join(10)
    assert heard == [b"abc"]
    assert pipe.is_fifo()


def test_errors_name_the_path_that_was_asked_for(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"x\.json: the folder .*missing does not exist"):
        atomic_write(tmp_path / "missing" / "x.json", b"")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        atomic_write(tmp_path, b"")


def test_the_longest_name_a_file_system_takes_is_fine(tmp_path: Path):
    atomic_write(tmp_path / ("n" * 255), b"abc")
    assert names(tmp_path) == ["n" * 255]


def test_json_goes_to_a_file_or_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    value = {"größe": [1, 2.5, None]}
    write_json(str(tmp_path / "a.json"), value)
    write_json("-", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    assert json.loads(capsys.readouterr().out) == value


def test_json_refuses_numbers_that_other_readers_choke_on(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(str(tmp_path / "a.json"), {"loss": float("nan")})
    assert names(tmp_path) == []
