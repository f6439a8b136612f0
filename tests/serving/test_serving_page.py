"""docs/serving.md tells the limits that hold, and its examples are ones that start."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

from laterna.cli import parse
from laterna.commands.serve import Serve
from laterna.inference.sampling import MOST_TOP_LOGPROBS
from laterna.serving.door import ServerSettings
from laterna.serving.engines import ENGINES
from laterna.serving.intake import IntakeSettings
from laterna.serving.protocol import DEFAULT_TOKENS, MOST_CHOICES, MOST_IMAGES, MOST_STOPS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_limits_are_those_of_the_code() -> None:
    server, images, command = ServerSettings(), IntakeSettings(), Serve(model="m")
    held = [command.max_concurrency, command.queue, command.answer_seconds, server.body_seconds,
            server.max_body, DEFAULT_TOKENS, MOST_CHOICES, MOST_STOPS, MOST_TOP_LOGPROBS,
            MOST_IMAGES, images.max_bytes, images.max_pixels,
            images.request_pixels, images.max_side, images.timeout,
            images.redirects, command.grace]  # fmt: skip
    found = rows("Limits")
    told = [float(re.sub(r"[^\d.]", "", value)) for _, value, _ in found]
    assert told == [float(limit) for limit in held]
    named = [option.strip("`") for _, _, option in found if option]
    assert all(hasattr(command, name.removeprefix("--").replace("-", "_")) for name in named)
    assert server.answer_seconds == command.answer_seconds


def test_every_engine_is_told() -> None:
    assert [row[0].split("`")[1] for row in rows("Engines")] == list(ENGINES)


def test_the_unit_starts_a_command_and_waits_for_its_end() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block("ini"))
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/laterna")
    command = parse(words)
    assert isinstance(command, Serve)
    assert int(unit["Service"]["TimeoutStopSec"]) > command.grace
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_the_container_starts_a_command_and_is_given_time() -> None:
    (words,) = re.findall(r"^ENTRYPOINT (.*)$", block("dockerfile"), re.MULTILINE)
    program, *rest = json.loads(words)
    command = parse(rest)
    assert program == "laterna" and isinstance(command, Serve)
    (seconds,) = re.findall(r"--stop-timeout (\d+)", PAGE)
    assert int(seconds) > command.grace
    assert f"EXPOSE {command.port}" in block("dockerfile")
    assert command.host == "0.0.0.0"


def test_the_proxy_lets_through_what_the_server_takes() -> None:
    proxy = block("nginx")
    (size,) = re.findall(r"client_max_body_size (\d+)m;", proxy)
    assert int(size) * 2**20 >= ServerSettings().max_body
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", proxy)
    assert int(seconds) >= ServerSettings().answer_seconds
    assert "proxy_buffering off;" in proxy
