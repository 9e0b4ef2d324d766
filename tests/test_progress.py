"""Progress changes nothing about the work, and talks on stderr only."""

from __future__ import annotations

import pytest

from avatar import progress as progress_module
from avatar.progress import progress


def test_every_item_is_handed_on_in_order(capsys: pytest.CaptureFixture[str]):
    assert list(progress([3, 1, 2], "sorting")) == [3, 1, 2]
    said = capsys.readouterr()
    assert said.out == ""
    assert "sorting: 3 of 3" in said.err


def test_a_log_gets_few_lines(capsys: pytest.CaptureFixture[str]):
    list(progress(range(10_000), "counting"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_time_left_shrinks_with_the_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    clock = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    list(progress("ab", "walking"))
    assert capsys.readouterr().err.splitlines() == ["walking: 1 of 2, 20 s left", "walking: 2 of 2, 0 s left"]


def test_work_without_a_known_end_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    clock = iter([0.0, 20.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    assert list(progress(iter("a"), "reading")) == ["a"]
    assert capsys.readouterr().err == "reading: 1\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: True)
    assert list(progress([1, 2], "drawing")) == [1, 2]
    said = capsys.readouterr()
    assert said.out == ""
    assert "drawing" in said.err
    assert "100%" in said.err
