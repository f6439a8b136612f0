from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.synthesis.cluster import RayRun, begun_shards, share
from laterna.synthesis.run import run_job
from laterna.synthesis.settings import Endpoint, Job, Shard, Spending


def test_a_shard_gets_its_part_of_the_limits_and_a_ledger_of_its_own() -> None:
    job = Job(
        annotations=Path("x"),
        ledger=Path("d/l.sqlite"),
        endpoint=Endpoint(concurrency=10, requests_per_minute=100, tokens_per_minute=1000),
        spending=Spending(budget=8.0),
    )
    part = share(job, 2, 4)
    assert part.shard == Shard(number=2, of=4)
    assert part.ledger == Path("d/l.2-of-4.sqlite")
    assert (part.endpoint.concurrency, part.endpoint.requests_per_minute) == (2, 25)
    assert (part.endpoint.tokens_per_minute, part.spending.budget) == (250, 2.0)
    assert share(Job(annotations=Path("x")), 1, 99).endpoint.concurrency == 1


def test_a_run_begun_in_so_many_shards_goes_on_in_as_many(tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    assert begun_shards(None) == begun_shards(ledger) == 0
    job = Job(annotations=Path("x"), ledger=ledger)
    for name in ("l.sqlite", "other.1-of-9.sqlite", "l.1-of-9.sqlite-wal", "l.x-of-9.sqlite"):
        (tmp_path / name).touch()
    assert begun_shards(ledger) == 0
    for number in (1, 12):
        begun = share(job, number, 12).ledger
        assert begun is not None
        begun.touch()
    assert begun_shards(ledger) == 12
    (tmp_path / "l.1-of-4.sqlite").touch()
    with pytest.raises(LaternaError, match=r"ledgers of 4 and of 12 shards of l\.sqlite"):
        begun_shards(ledger)


def test_the_engine_makes_its_own_shards() -> None:
    with pytest.raises(LaternaError, match="makes its own shards"):
        RayRun(Job(annotations=Path("x"), shard=Shard(number=1, of=2)))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = pytest.importorskip("ray", reason="the engine 'ray' needs laterna[ray]")
    # The workers are processes of their own and must import the same source.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


@pytest.mark.slow
def test_a_cluster_writes_the_same_file(
    start_stub: Callable[..., Any],
    some_contexts: Path,
    tmp_path: Path,
    ray: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = start_stub("--bad", "0.2")
    endpoint = Endpoint(model="m", base_url=stub.url)
    job = Job(annotations=some_contexts, teacher="openai", endpoint=endpoint, repair=1)
    alone, shared = tmp_path / "alone.json", tmp_path / "shared.json"
    one = run_job(job, alone)
    paid = stub.stats()["paid"]
    many = run_job(job, shared, engine="ray")
    assert shared.read_bytes() == alone.read_bytes()
    assert (many.records, many.problems, many.rejected) == (
        one.records,
        one.problems,
        one.rejected,
    )
    assert one.calls is not None and many.calls is not None
    assert many.calls.asked == one.calls.asked == paid
    assert sorted(path.name for path in tmp_path.glob("shared.ledger*.sqlite")) == [
        "shared.ledger.1-of-2.sqlite",
        "shared.ledger.2-of-2.sqlite",
    ]
    grown = ray.cluster_resources() | {"CPU": 3.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: grown)
    again = run_job(job, shared, engine="ray")
    assert again.calls is not None
    assert again.calls.asked == 0
    assert shared.read_bytes() == alone.read_bytes()
    refusing = Endpoint(model="m", base_url=start_stub("--always", "401").url)
    with pytest.raises(LaternaError, match="refuses all requests"):
        run_job(msgspec.structs.replace(job, endpoint=refusing), shared, engine="ray")
    assert stub.stats()["paid"] == 2 * paid
