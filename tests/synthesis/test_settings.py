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
    found = read_parameters(('effort="low"', "min_tokens=2", 'stop=["a", "b"]'))
    assert {name: bytes(value) for name, value in found.items()} == {
        "effort": b'"low"',
        "min_tokens": b"2",
        "stop": b'["a","b"]',
    }
    for wrong in (("effort=low",), ("top_k",), ("=1",), ("top_k=1", "top_k=2")):
        with pytest.raises(LaternaError, match="parameter"):
            read_parameters(wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n=5", "each of which is billed"),
        ("best_of=3", "each of which is billed"),
        ("stream=true", "is set by Laterna"),
        ('messages=[{"role": "user", "content": "x"}]', "is set by Laterna"),
        ('models=["a", "b"]', "asks other models"),
        ("tools=[]", "billed besides"),
        ('extra_body={"n": 3}', "belongs to a client"),
        ("api_key=hunter2", "looks like a secret"),
        ('OPENAI-API-KEY="hunter2"', "looks like a secret"),
        ('provider={"credentials": [{"x": "hunter2"}]}', "looks like a secret"),
        ('user="sk-hunter2hunter2hunter2"', "looks like a secret"),
    ],
)
def test_parameters_that_cost_more_or_tell_a_secret_are_refused(text: str, said: str) -> None:
    with pytest.raises(LaternaError, match=said) as error:
        check_job(Job(annotations=Path("x"), endpoint=Endpoint(parameters=(text,))))
    assert "hunter2" not in str(error.value), "no message holds a value"


def test_parameters_that_only_sound_so_pass() -> None:
    names = ["max_completion_tokens", "stop_token_ids", "prompt_cache_key", "skip_special_tokens"]
    assert list(read_parameters(tuple(f"{name}=1" for name in names))) == names


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
