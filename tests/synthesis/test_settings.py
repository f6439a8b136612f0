from __future__ import annotations

from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.synthesis.settings import (
    Endpoint,
    Job,
    Shard,
    check_job,
    read_key,
    read_parameters,
    read_shard,
)


def test_shards_part_the_images() -> None:
    shards = [read_shard(f"{number}/3") for number in (1, 2, 3)]
    assert shards[0] == Shard(number=1, of=3)
    assert [[n for n in range(7) if shard.holds(n)] for shard in shards] == [
        [0, 3, 6],
        [1, 4],
        [2, 5],
    ]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(LaternaError, match="write it as i/n"):
        read_shard(text)


def test_parameters_are_json() -> None:
    found = read_parameters(('effort="low"', "n=2", 'stop=["a", "b"]'))
    assert {name: bytes(value) for name, value in found.items()} == {
        "effort": b'"low"',
        "n": b"2",
        "stop": b'["a","b"]',
    }
    for wrong in (("effort=low",), ("n",), ("=1",), ("n=1", "n=2")):
        with pytest.raises(LaternaError, match="parameter"):
            read_parameters(wrong)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", " sk-1\n")
    assert read_key("SOME_KEY") == "sk-1"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(LaternaError, match="set the environment variable SOME_KEY"):
        read_key("SOME_KEY")


@pytest.mark.parametrize(
    "changes",
    [
        {"repair": -1},
        {"endpoint": Endpoint(concurrency=0)},
        {"endpoint": Endpoint(tries=0)},
        {"endpoint": Endpoint(timeout=0)},
        {"endpoint": Endpoint(requests_per_minute=-1)},
    ],
)
def test_numbers_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(LaternaError, match=r"give a (whole )?number of at least"):
        check_job(Job(annotations=Path("x"), **changes))  # type: ignore[arg-type]
