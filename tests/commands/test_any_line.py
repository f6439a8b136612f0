"""Any command line, however wrong, ends in a help text, a result or one sentence."""

from __future__ import annotations

import os
import random
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from laterna.cli import COMMANDS, main
from laterna.commands.base import FLAT

NUMBERS = (
    "-1 0 1 2 7 nan inf -inf 1e30 1e-30 0.5 1.0 0x10 --5 ١ 1_000 " + "9" * 30 + " -" + "9" * 30
).split()
WORDS = ["", " ", "=", "é\ud8ff", *"none None null world boxes hf {} a=b ../.. -".split()]
SETTINGS = (
    "seed threads align.epochs align.max-steps align.global-batch-size align.connector.lr"
    " align.max-grad-norm "
    "instruct.language.mode instruct.weight-decay instruct.pack-length instruct.max-tokens "
    "vision.grids vision.layer vision.fit vision.image-size connector.kind connector.depth lora.r "
    "run.workers run.save-total-limit run.eval-steps run.engine feature-cache prepared align.data "
    "align.validation precision compile language.template language.quantize align.sources"
).split()
WHOLE = [*"-1 0 1 2 7".split(), "9" * 30, "-" + "9" * 30]
FAST, MANY = 300, 3000


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what may stand where a path is asked for; the test stands among them."""
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "folder/inside", "empty-folder"):
        Path(name).mkdir()
    Path("empty").touch()
    Path("noise").write_bytes(random.Random(1).randbytes(999))
    Path("text.txt").write_text("A cup.\n")
    Path("one.json").write_text("{}")
    Path("list.jsonl").write_text("[1]\n{}\nnull\n")
    Path("recipe.toml").write_text('name = "x"\n')
    Path("folder/laterna.json").write_text('{"format": 1}')
    Path("folder/config.json").write_text("[]")
    Path("link").symlink_to("folder")
    Path("round").symlink_to("round")
    os.mkfifo("pipe")
    Path("closed").mkdir(mode=0)
    named = [path.name for path in tmp_path.iterdir()]
    odd = ["", ".", "..", "/dev/null", "a/b/c", "x" * 300, "nul\0", "\udcff", "hub:a/b", "~"]
    return [*named, *odd, "noise/below", "nano", "builtin:nano-llama", "pipe/"]


@pytest.fixture(autouse=True)
def nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would take minutes once the line was found right."""
    monkeypatch.setattr("laterna.demo.run_demo", lambda *_: Path("page"))
    monkeypatch.setattr("laterna.training.run.train", lambda *_, out, **__: out)
    monkeypatch.setattr("laterna.planner.plan.plan_recipe", lambda *_, **__: 1 / 0)


def options_of(kind: type) -> Iterator[tuple[str, object, bool]]:
    """Yield a command's arguments: name, type, and whether there is a default."""
    hints = typing.get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            assert f"{field.name}." in FLAT
            yield from options_of(hint)
        else:
            yield field.name, hint, field.required


def any_value(draw: random.Random, hint: object, places: list[str]) -> str:
    """Draw a value: mostly one of the right type, which need not make sense."""
    text, known = str(hint), typing.get_args(hint)
    if draw.random() < 0.06:
        return draw.choice([*NUMBERS, *WORDS, *places])
    if known and all(isinstance(one, str) for one in known):
        return str(draw.choice(known))
    if "int" in text:
        return draw.choice(WHOLE)
    if "float" in text:
        return draw.choice(NUMBERS)
    return draw.choice(places if "Path" in text or draw.random() < 0.7 else WORDS)


def any_line(draw: random.Random, places: list[str]) -> list[str]:
    """Draw a command line: mostly of the command's own options, with any values."""
    name = draw.choice(list(COMMANDS))
    kind = COMMANDS[name]
    assert isinstance(kind, type)
    line, options = [name], list(options_of(kind))
    positional = typing.get_type_hints(kind, include_extras=True)
    for option, hint, required in options:
        if draw.random() > (0.97 if required else 0.2):
            continue
        flag = f"--{option.replace('_', '-')}"
        if "Positional" in str(positional.get(option)) or "Marker" in str(positional.get(option)):
            line.append(any_value(draw, hint, places))
        elif hint is bool:
            line.append(flag)
        else:
            line += [flag, any_value(draw, hint, places)]
    if name in ("train", "plan") and draw.random() < 0.7:
        line[1:2] = [draw.choice(["nano", "nano", "llava-1.5-7b-lora"])]
        for _ in range(draw.randrange(3)):
            pool = draw.choice([WHOLE, NUMBERS, WORDS, places])
            line += [f"--{draw.choice(SETTINGS)}", draw.choice(pool)]
    if name == "world" and "--images" not in line:
        line += ["--images", "1"]
    if draw.random() < 0.05:
        line.insert(draw.randrange(len(line) + 1), draw.choice([*WORDS, *NUMBERS, "--nothing"]))
    return line


def end_of(line: list[str], run: Callable[[list[str]], int]) -> object:
    try:
        return run(line)
    except SystemExit as stop:
        return stop.code
    except ZeroDivisionError:
        return "planned"


@pytest.mark.parametrize(
    ("lines", "seed"), [(FAST, 0), pytest.param(MANY, 1, marks=pytest.mark.slow)]
)
def test_no_line_ends_in_a_traceback(
    lines: int,
    seed: int,
    places: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    draw = random.Random(seed)
    ends: dict[object, int] = {}
    for number in range(lines):
        line = any_line(draw, places)
        try:
            end = end_of(line, main)
        except Exception as error:
            raise AssertionError(f"line {number}: {line}") from error
        ends[end] = ends.get(end, 0) + 1
        err = capsys.readouterr().err
        assert "Traceback" not in err, line
        assert end in (0, 2, "planned"), line
        assert end != 2 or err, line
    assert ends[2] > lines / 2
    assert Path("text.txt").read_text() == "A cup.\n"
    assert Path("folder/laterna.json").read_text() == '{"format": 1}'
