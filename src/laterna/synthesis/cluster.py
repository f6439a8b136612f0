"""Runs a job over a Ray Data cluster: a shard a task, each with a ledger of its own.

The shards' results come back sorted into the scenes' order, so the file is the same as that of
one process. Budget and rates are shared out evenly among the shards that run at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from laterna.errors import LaternaError
from laterna.scenes.annotations import Problem
from laterna.synthesis.builder import BuildResult
from laterna.synthesis.engine import Calls, Run
from laterna.synthesis.settings import Job, Shard

_GATHERED = 256
"""Results a block of rows that a shard hands back."""
_CLOSING = 2**62
"""Stands for the number of a scene in the last row of a shard, which holds its counts."""


class _Closing(msgspec.Struct):
    """What a shard counted."""

    problems: list[Problem]
    calls: Calls | None


class RayRun:
    """One job on a cluster; the same face as `engine.Run`.

    The number of shards is the cluster's number of CPUs, or that of the ledgers of an earlier run,
    so that a run resumed on another cluster finds its answers; annotations, images and ledgers
    must be where every node sees them under the same path.
    """

    def __init__(self, job: Job) -> None:
        """Prepare; raise LaternaError when Ray is not installed or a shard is asked for."""
        if job.shard.of > 1:
            raise LaternaError("the engine 'ray' makes its own shards; leave --shard out")
        self._job = job
        self.problems: list[Problem] = []
        self.calls: Calls | None = None

    def expected(self) -> None:
        """Not counted: the results come all at once."""

    def results(self) -> Iterator[BuildResult]:
        """Yield the results in order, as the cluster has made them all."""
        try:
            import ray
        except ImportError as error:
            raise LaternaError("Ray is not installed: pip install 'laterna[ray]'") from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        shards = begun_shards(self._job.ledger)
        shards = shards or max(1, int(ray.cluster_resources().get("CPU", 1)))
        job = msgspec.json.encode(msgspec.to_builtins(self._job, enc_hook=str))

        def make(rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
            for number in rows["id"]:
                yield from _shard_rows(job, int(number) + 1, shards)

        made = ray.data.range(shards, override_num_blocks=shards).map_batches(make, batch_size=1)
        try:
            yield from self._read(made.sort(["number", "place"]).iter_rows())
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            while cause is not None and not isinstance(cause, LaternaError):
                cause = getattr(cause, "cause", None) or cause.__cause__
            if cause is None:
                raise
            raise LaternaError(str(cause)) from error

    def _read(self, rows: Iterator[dict[str, Any]]) -> Iterator[BuildResult]:
        """Yield the results in rows; keep what the shards counted."""
        for row in rows:
            if row["number"] == _CLOSING:
                self._close(msgspec.json.decode(row["result"], type=_Closing), row["place"])
            else:
                yield msgspec.json.decode(row["result"], type=BuildResult)

    def _close(self, closing: _Closing, shard: int) -> None:
        if shard == 1:  # every shard reads the whole source and meets the same problems
            self.problems += closing.problems
        if closing.calls is not None:
            self.calls = closing.calls if self.calls is None else self.calls + closing.calls


def begun_shards(ledger: Path | None) -> int:
    """Return into how many shards an earlier run was split, by its ledgers; 0 where none is there.

    Raises LaternaError where ledgers of several splits lie beside each other.
    """
    if ledger is None:
        return 0
    pattern = re.compile(rf"{re.escape(ledger.stem)}\.\d+-of-(\d+){re.escape(ledger.suffix)}")
    names = (path.name for path in ledger.parent.glob("*-of-*"))
    found = {int(match[1]) for match in map(pattern.fullmatch, names) if match}
    if len(found) > 1:
        splits = " and of ".join(map(str, sorted(found)))
        raise LaternaError(
            f"{ledger.parent}: ledgers of {splits} shards of {ledger.name}; keep those of one "
            "split only, so that their answers are found again"
        )
    return found.pop() if found else 0


def share(job: Job, number: int, of: int) -> Job:
    """Return the part of a job that one shard does: its scenes, its ledger, its part of limits."""
    endpoint, spending = job.endpoint, job.spending
    ledger = job.ledger
    if ledger is not None:
        ledger = ledger.with_name(f"{ledger.stem}.{number}-of-{of}{ledger.suffix}")
    return msgspec.structs.replace(
        job,
        shard=Shard(number=number, of=of),
        ledger=ledger,
        endpoint=msgspec.structs.replace(
            endpoint,
            concurrency=max(1, endpoint.concurrency // of),
            requests_per_minute=endpoint.requests_per_minute / of,
            tokens_per_minute=endpoint.tokens_per_minute / of,
        ),
        spending=msgspec.structs.replace(
            spending, budget=None if spending.budget is None else spending.budget / of
        ),
    )


def _shard_rows(job: bytes, number: int, of: int) -> Iterator[dict[str, Any]]:
    """Do one shard and yield its results as blocks of rows, then what it counted."""
    whole = msgspec.json.decode(
        job, type=Job, dec_hook=lambda kind, value: Path(value) if kind is Path else value
    )
    run = Run(share(whole, number, of))
    block: list[tuple[int, int, bytes]] = []
    for place, result in enumerate(run.results()):
        block.append((result.number, place, msgspec.json.encode(result)))
        if len(block) == _GATHERED:
            yield _columns(block)
            block = []
    closing = _Closing(problems=run.problems, calls=run.calls)
    yield _columns([*block, (_CLOSING, number, msgspec.json.encode(closing))])


def _columns(rows: list[tuple[int, int, bytes]]) -> dict[str, Any]:
    numbers, places, results = zip(*rows, strict=True)
    content = np.array(results, dtype=object)
    return {"number": np.array(numbers), "place": np.array(places), "result": content}
