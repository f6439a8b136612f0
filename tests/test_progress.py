from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from laterna.progress import Progress, followed, shown_progress, spelled


class Clock:
    """Seconds that a test turns on by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def logged() -> Console:
    return Console(file=StringIO(), force_terminal=False)


def test_a_log_gets_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    shown = Progress("stage align", total=500, done=20, console=logged(), clock=clock)
    for step in range(21, 201):  # a second each
        clock.now += 1
        shown.update(step, "a bar's figures", log=f"loss {1 / step:.3f}")
    shown.close()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "stage align: 80 of 500 · loss 0.013 · 1.0 a second · 7 min 0 s left",
        "stage align: 140 of 500 · loss 0.007 · 1.0 a second · 6 min 0 s left",
        "stage align: 200 of 500 · loss 0.005 · 1.0 a second · 5 min 0 s left",
    ]


def test_what_is_done_before_tells_nothing_of_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    shown = Progress("records", console=logged(), clock=clock)
    clock.now += 60
    shown.update(4_608, "captions.json")
    clock.now += 59.9
    shown.update(9_000, "captions.json")
    assert capsys.readouterr().err == "records: 4,608 · captions.json · 76.8 a second\n"
    shown = Progress("features", total=10, done=5, console=logged(), clock=clock)
    clock.now += 61
    shown.update(5)
    assert capsys.readouterr().err == "features: 5 of 10\n"


def test_a_rate_is_told_in_the_unit_that_one_piece_fits_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for done, seconds in ((90, 60), (60, 90), (3, 7_200), (2, 120)):
        clock = Clock()
        shown = Progress("synthesis", console=logged(), clock=clock)
        clock.now += seconds
        shown.update(done)
        shown.close()
    assert capsys.readouterr().err.splitlines() == [
        "synthesis: 90 · 1.5 a second",
        "synthesis: 60 · 40.0 a minute",
        "synthesis: 3 · 1.5 an hour",
        "synthesis: 2 · 1.0 a minute",
    ]


def test_work_that_stands_still_gets_its_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laterna.progress.EVERY", 0.1)
    with shown_progress("synthesis", console=logged()) as shown:
        shown.expect(300)
        shown.update(7, "waiting for the endpoint")
        said, until = "", time.monotonic() + 20
        while said.count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.05)
            said += capsys.readouterr().err
    lines = said.splitlines()
    assert len(lines) >= 2
    start = "synthesis: 7 of 300 · waiting for the endpoint · "
    assert all(line.startswith(start) and line.endswith(" left") for line in lines)
    capsys.readouterr()
    time.sleep(0.3)
    assert capsys.readouterr().err == ""  # nothing behind the end


def test_a_terminal_gets_a_bar_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock, out = Clock(), StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    shown = Progress("stage align", total=3, console=console, clock=clock)
    clock.now += 100
    shown.update(2, "loss 0.5", log="not here")
    shown.close()
    assert "stage align" in out.getvalue()
    assert "2/3" in out.getvalue()
    assert "loss 0.5" in out.getvalue()
    assert "not here" not in out.getvalue() + capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_console_shows_nothing(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    clock, out = Clock(), StringIO()
    console = Console(file=out, force_terminal=terminal, quiet=True)
    shown = Progress("stage align", total=3, console=console, clock=clock)
    clock.now += 100
    shown.update(2)
    shown.close()
    assert out.getvalue() + capsys.readouterr().err == ""


def test_items_are_passed_on_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(followed("abc", "letters", total=3)) == ["a", "b", "c"]
    with shown_progress("letters", console=logged()) as shown:
        shown.update(1)
    assert capsys.readouterr().err == ""


def test_durations_are_spelled_for_people() -> None:
    assert [spelled(seconds) for seconds in (0, 59.4, 59.6, 3_599, 7_500, -1)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 5 min",
        "0 s",
    ]
