"""What the pages point at is there: every relative link, every command line, every path of ours."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from laterna import recipe
from laterna.cli import parse
from laterna.commands import COMMANDS
from laterna.errors import LaternaError

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(laterna [^`\n]*)`")
OURS = re.compile(r"`((?:[a-z_]+/)+[\w-]+\.(?:py|toml|sh|jinja))`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"")

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def links(text: str) -> list[str]:
    """Relative targets of links and images."""
    targets = [target for pair in LINK.findall(FENCED.sub("", text)) for target in pair if target]
    return [target for target in targets if "://" not in target and not target.startswith("mailto")]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every line that runs `laterna`, in blocks and between backticks."""
    blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if re.match(r"\s*(\$ )?laterna [a-z]", line)]
    for line in [*lines, *INLINE.findall(FENCED.sub("", text))]:
        # what follows a pipe, a redirection or a second command is not ours
        words = shlex.split(line.replace("$ ", "", 1), comments=True)
        ends = [place for place, word in enumerate(words) if re.match(r"[|>;&]", word)]
        yield words[1 : min(ends, default=len(words))]


def fault(words: list[str]) -> str:
    """What is wrong with a command line, but for files that are not there; empty: nothing."""
    command, *rest = words
    if command in COMMANDS and len(rest) < 2 and all(word.startswith("--") for word in rest):
        # a command, or an option of it, is only named
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            parse([command, "--help"])
        return "" if all(word in shown.getvalue() for word in rest) else "wrong usage"
    try:
        parse(words)
    except SystemExit as stop:
        return "" if stop.code == 0 else "wrong usage"
    except LaternaError as error:
        return "" if "no such recipe file" in str(error) else str(error)
    return ""


@page
def test_every_link_leads_to_a_file(page: Path) -> None:
    found = links(page.read_text(encoding="utf-8"))
    assert [target for target in found if not (page.parent / target).exists()] == []


@page
def test_every_file_of_ours_is_there(page: Path) -> None:
    named = OURS.findall(page.read_text(encoding="utf-8"))
    folders = [ROOT / name for name in ("src", "tests", "tools", "benchmarks")]
    files = [str(path) for folder in folders for path in folder.rglob("*.*")]
    gone = [name for name in named if not any(path.endswith(f"/{name}") for path in files)]
    assert [name for name in gone if Path(name).stem != "NAME"] == []


@page
def test_every_command_line_is_one(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(command_lines(page.read_text(encoding="utf-8")))
    assert [(" ".join(words), said) for words in lines if (said := fault(words))] == []


def test_there_are_links_and_command_lines_to_check() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PAGES]
    assert sum(len(links(text)) for text in texts) > 40
    assert sum(len(list(command_lines(text))) for text in texts) > 30


def test_the_rules_find_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    text = """
[a](none.md#part) and `laterna train nano --no-such 3`
```sh
laterna evaluate CHECKPOINT \\
    --data FOLDER --task nix | head  # why
laterna train mine.toml --stage align
```
"""
    assert links(text) == ["none.md"]
    first, second, third = command_lines(text)
    assert first == ["evaluate", "CHECKPOINT", "--data", "FOLDER", "--task", "nix"]
    assert fault(first) == "wrong usage"
    assert fault(second) == ""
    assert fault(third) == "wrong usage"
    assert fault(["nothing"]) == fault(["evaluate", "--nothing"]) == "wrong usage"
    assert fault(["evaluate"]) == fault(["evaluate", "--out"]) == ""


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`, `" in line]
    assert len(rows) >= 12
    package = ROOT / "src" / "laterna"
    for row in rows:
        for name, place in re.findall(r"`([A-Z_]+)`, `([\w/.]+)`", row):
            assert re.search(rf"^{name}\b", (package / place).read_text(), re.MULTILINE), row
        for place in re.findall(r"`([\w/]+/)NAME\.\w+`", row):
            assert (package / place).is_dir(), row


SETTING = re.compile(
    r"`((?:STAGE|PART|align|instruct|run|vision|connector|language|lora|fusion)"
    r"(?:\.[a-z_0-9]+)+)\b(?!\.[a-z]|/)"
)
"""A setting as the pages name it; STAGE and PART stand for any of them."""


def test_settings_that_pages_name_exist() -> None:
    names = {
        field.name
        for kind in vars(recipe).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        for field in msgspec.structs.fields(kind)
    }
    told = [
        f"{page.name}: {place}"
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for place in SETTING.findall(page.read_text(encoding="utf-8"))
        if not set(place.split(".")[1:]) <= names
    ]
    assert told == []
    assert SETTING.findall("`STAGE.held_out`, `run.x = 1`") == ["STAGE.held_out", "run.x"]
