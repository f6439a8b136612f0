"""Annotation files with random damage are read, or named in a sentence; nothing else happens."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.records import Scene
from laterna.scenes.annotations import Problem, stream_scenes
from laterna.scenes.readers import READERS

VALUES: list[Any] = [
    None, True, False, [], {}, "", " ", "x", "7", "NaN", -1, 0, 1, 1.5, 1e308, -1e308, 10**30,
    float("nan"), float("inf"), [[]], [None], {"a": {"b": []}}, "\ud800", "\x00", "ä" * 300,
    [1, 2, 3, 4], ["1", "2", "3", "4"], [1] * 9, "../../x.jpg", "/etc/passwd", 10**400,
]  # fmt: skip
PIECES = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"null", b"NaN", b"1e999", b"-", b"[" * 5000,
    b"{", b"}", b"]", b'"', b"\\ud800", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<", b"\n",
    b"\r", b",", b"9" * 5000, b"\x1f\x8b", b"0x1", b"#0\t", b"<a>" * 3000,
]  # fmt: skip


def hurt_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change, cut, double or insert bytes in up to four places."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(content) + 1), rng.randint(1, 20)
        content = rng.choice(
            [
                content[:at],
                content[:at] + content[at + length :],
                content[:at] + content[at : at + length] * 2 + content[at + length :],
                content[:at] + rng.choice(PIECES) + content[at:],
                content[:at] + rng.choice(PIECES) + content[at + length :],
                content[:at] + rng.randbytes(length) + content[at + length :],
            ]
        )
    return content


def hurt_json(content: bytes, rng: random.Random) -> bytes:
    """Put other values in place of some, drop or double entries, in every line that is JSON."""
    lines = []
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            return hurt_bytes(content, rng)
        for _ in range(rng.randint(1, 3)):
            value = hurt_value(value, rng)
        lines.append(json.dumps(value).encode())
    return b"\n".join(lines)


def hurt_value(value: Any, rng: random.Random) -> Any:
    if not value or not isinstance(value, dict | list) or rng.random() < 0.15:
        return copy.deepcopy(rng.choice(VALUES))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    if rng.random() < 0.15:
        del value[key]
    elif isinstance(value, list) and rng.random() < 0.15:
        value.append(copy.deepcopy(value[key]))
    else:
        value[key] = hurt_value(value[key], rng)
    return value


WAYS: list[Callable[[bytes, random.Random], bytes]] = [hurt_bytes, hurt_json, hurt_json]


def fuzz(seed: int, samples: dict[str, Path]) -> bool:
    """Read one source with damage; return whether scenes came of it."""
    rng = random.Random(seed)
    name = list(READERS)[seed % len(READERS)]
    root = samples[name]
    files = sorted(path for path in root.rglob("*") if path.is_file()) or [root]
    victim = rng.choice(files)
    whole = victim.read_bytes()
    victim.write_bytes(rng.choice(WAYS)(whole, rng))
    path = rng.choice([root, root, root, victim])
    problems: list[Problem] = []
    scenes: list[Scene] = []
    try:
        forced = rng.choice(["auto", "auto", name, name, rng.choice(list(READERS))])
        scenes += stream_scenes(path, None, problems, format=forced, captionless=seed % 2 == 0)
    except LaternaError as error:
        assert "\n" not in str(error)[:200], seed
    finally:
        victim.write_bytes(whole)
    for scene in scenes:
        assert scene.id and scene.image, seed
        assert all(0 <= box.x1 < box.x2 <= 1 and 0 <= box.y1 < box.y2 <= 1 for box in scene.boxes)
        assert all(box.category for box in scene.boxes), seed
    kept = msgspec.json.encode([*scenes, *problems])  # half a surrogate pair would not be
    assert kept
    return bool(scenes)


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 600), marks=pytest.mark.slow)], ids=["100", "500"]
)
def test_damaged_files_are_read_or_named(samples: dict[str, Path], seeds: range) -> None:
    read = sum(fuzz(seed, samples) for seed in seeds)
    # neither is everything refused, nor does the damage never show
    assert 0.2 * len(seeds) < read < 0.95 * len(seeds)


def test_the_samples_are_whole_before_they_are_damaged(samples: dict[str, Path]) -> None:
    for name, path in samples.items():
        problems: list[Problem] = []
        scenes = list(stream_scenes(path, None, problems))
        assert scenes == list(stream_scenes(path, None, [], format=name)), name
        assert scenes, name
