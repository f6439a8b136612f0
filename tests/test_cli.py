"""The command line: help for every command, one line and exit 2 for what the user can mend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laterna import cli
from laterna.cli import COMMANDS, main, parse
from laterna.commands import TunedTrain
from laterna.commands.base import Command
from laterna.errors import LaternaError
from laterna.recipe import Recipe

SRC = Path(__file__).parent.parent / "src"
RUN_MAIN = "import sys; from laterna.cli import main; sys.exit(main())"


def in_a_process(*args: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN_MAIN, *args],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def exit_status(args: list[str]) -> int:
    """What the shell would see of a command line, tyro's own SystemExit included."""
    try:
        return main(args)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Put a command `raise` on the command line that raises what it is given."""

    def put(error: BaseException) -> None:
        class Raise(Command, frozen=True, kw_only=True):
            """Raise."""

            def run(self) -> str:
                raise error

        monkeypatch.setitem(COMMANDS, "raise", Raise)

    return put


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status([name, "--help"]) == 0
    out = capsys.readouterr().out
    first_line = (COMMANDS[name].__doc__ or "").splitlines()[0]
    assert f"usage: laterna {name}" in out
    assert first_line in out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"• {name}" in out for name in COMMANDS)


def test_help_of_a_recipe_shows_every_setting_with_its_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status(["train", "nano", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--instruct.connector.lr FLOAT" in out
    assert "--vision.source STR" in out
    assert "builtin:nano-vit" in out
    assert "Peak learning rate." in out


def test_settings_follow_the_recipe_and_options_keep_their_place() -> None:
    command = parse(["train", "nano", "--stage", "align", "--out", "x", "--align.max-steps", "3"])
    assert isinstance(command, TunedTrain)
    assert (command.recipe, command.stage, command.out) == ("nano", "align", Path("x"))
    assert command.settings_to_train().align.max_steps == 3
    assert command.settings_to_train().instruct.max_steps != 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "nowhere.toml"], "nowhere.toml: no such recipe file"),
        (["train", "--stage", "align", "nowhere.toml"], "nowhere.toml: no such recipe file"),
        (["synthesize", "--annotations", "none.json", "--out", "o.json"], "none.json"),
        (["evaluate", "no-checkpoint", "--data", "no-data"], "no-"),
        (["lab", "projector", "--recipe", "no-recipe"], "no-recipe: no such recipe file"),
        (["chat", "no-checkpoint", "--prompt", "Hello"], "no-checkpoint"),
        (["train", "nano", "--out", "o"], "captions.json: no such file or folder"),
        (["plan", "nano", "--vision.source", "no-tower"], "no-tower"),
        (
            ["train", "nano", "--align.global-batch-size", "0"],
            "laterna: --align.global-batch-size 0: give a whole number of at least 1",
        ),
        (
            ["train", "nano", "--run.workers", "-1"],
            "--run.workers -1: give a whole number of at least 0",
        ),
        (["train", "nano", "--seed", "-1"], "--seed -1: give a whole number of at least 0"),
        (
            ["train", "nano", "--align.language.mode", "ful"],
            "--align.language.mode ful: expected `str` matching regex",
        ),
        (["plan", "nano", "--align.max-steps", "-2"], "--align.max-steps -2: give"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(
    args: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("laterna: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in err
    assert list(tmp_path.rglob("*.json")) == []


def test_unknown_recipe_key_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "typo.toml"
    path.write_text('name = "t"\n[vision]\nsource = "v"\nlayr = -2\n', encoding="utf-8")
    assert main(["train", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"laterna: {path}: ")
    assert "vision: object contains unknown field `layr`" in err


@pytest.mark.parametrize(
    "args",
    [["no-such-command"], ["train"], ["train", "nano", "--instruct.connector.lrr", "1"], []],
)
def test_wrong_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(args) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_errors_become_exit_statuses(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(LaternaError("cup.jpg: not an image; remove it"))
    assert main(["raise"]) == 2
    assert capsys.readouterr().err == "laterna: cup.jpg: not an image; remove it\n"
    raising(KeyboardInterrupt())
    assert main(["raise"]) == 130
    assert capsys.readouterr().err == "\nlaterna: interrupted\n"
    raising(PermissionError(13, "Permission denied", "out"))
    assert main(["raise"]) == 2
    assert capsys.readouterr().err == "laterna: out: Permission denied\n"


def test_our_own_mistakes_keep_their_traceback(raising: Callable[[BaseException], None]) -> None:
    raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["raise"])
    raising(OSError("an error of no file"))
    with pytest.raises(OSError, match="an error of no file"):
        main(["raise"])


def test_a_command_ends_in_the_line_it_returns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Make(Command, frozen=True, kw_only=True):
        """Make."""

        line: str

        def run(self) -> str:
            return self.line

    monkeypatch.setitem(COMMANDS, "make", Make)
    assert main(["make", "--line", "made a cup: cup.png"]) == 0
    assert capsys.readouterr().out == "made a cup: cup.png\n"
    assert main(["make", "--line", ""]) == 0
    assert capsys.readouterr().out == ""


def test_a_reader_that_has_gone_is_met_with_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = in_a_process("--help", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_ctrl_c_ends_the_process_with_130_and_one_line(tmp_path: Path) -> None:
    # A shell starts what runs in its background deaf to Ctrl-C, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = in_a_process("world", str(tmp_path / "world"), "--images", "5000")
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 600
    # Drawing has begun, long after what is imported: before, a signal ends Python otherwise.
    while not any(tmp_path.glob(".world.part/new/images/*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.endswith("laterna: interrupted\n")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_module_has_no_second_way_in() -> None:
    assert cli.COMMANDS.keys() == {
        "demo",
        "world",
        "synthesize",
        "check",
        "inspect",
        "prepare",
        "plan",
        "train",
        "evaluate",
        "compare",
        "lab",
        "report",
        "chat",
        "explain",
        "serve",
        "import",
        "export",
    }


def test_world_and_synthesize_end_in_what_they_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, out = tmp_path / "world", tmp_path / "instruct.json"
    assert main(["world", str(world), "--images", "4", "--seed", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("drew 4 images")
    assert len(list((world / "images").iterdir())) == 4
    assert main(["synthesize", "--annotations", str(world), "--out", str(out)]) == 0
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.startswith("4 images -> 4 conversation, 4 detail, 4 reasoning records in")
    assert len(json.loads(out.read_text(encoding="utf-8"))) == 12


def test_train_runs_the_second_stage_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def train(
        recipe: Recipe, *, stage: str, out: Path, init_from: Path | None, overwrite: bool
    ) -> Path:
        calls.append((recipe.seed, stage, out, init_from))
        return out

    monkeypatch.setattr("laterna.training.run.train", train)
    monkeypatch.chdir(tmp_path)
    align, instruct = Path("o/align"), Path("o/instruct")
    assert main(["train", "nano", "--out", "o", "--seed", "3"]) == 0
    assert calls == [(3, "align", align, None), (3, "instruct", instruct, align)]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "made the checkpoint o/instruct; talk to it: laterna chat o/instruct"
    )
    calls.clear()
    Path("s").mkdir()
    assert main(["train", "nano", "--stage", "instruct", "--init-from", "s"]) == 0
    assert calls == [(0, "instruct", Path("runs/nano/instruct"), Path("s"))]


def test_the_second_stage_alone_starts_from_the_first_one_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = []

    def train(
        recipe: Recipe, *, stage: str, out: Path, init_from: Path | None, overwrite: bool
    ) -> Path:
        starts.append(init_from)
        return out

    monkeypatch.setattr("laterna.training.run.train", train)
    alone = ["train", "nano", "--stage", "instruct", "--out", str(tmp_path)]
    assert main(alone) == 0
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "laterna.json").write_text("{}", encoding="utf-8")
    assert main(alone) == 0
    assert capsys.readouterr().err == f"starting from {tmp_path / 'align'}\n"
    (tmp_path / "other").mkdir()
    assert main([*alone, "--init-from", str(tmp_path / "other")]) == 0
    assert starts == [None, tmp_path / "align", tmp_path / "other"]
