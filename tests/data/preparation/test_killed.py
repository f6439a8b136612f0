"""`laterna prepare` killed at any moment goes on, and comes to what it would have come to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laterna.data.preparation import PART_CHUNKS
from laterna.data.preparation.cache import MANIFEST, part_path
from laterna.data.sources.rows import CHUNK_ROWS

ROWS = 36_000
PARTS = 5
"""Of which the last is not full."""
ALONE, BESIDE = 1, 2
"""Worker processes."""
LAUNCHER = """
import runpy, sys, time
from contextlib import contextmanager
from laterna.data.preparation import cache, workers
log = open(sys.argv[1], "w", buffering=1)
def noted(chunk):
    log.write(f"{chunk.first}\\n")
do_chunk = workers.do_chunk
def do(checker, chunk):
    noted(chunk)
    return do_chunk(checker, chunk)
class Pool(workers.ProcessPoolExecutor):
    def submit(self, do, chunk):
        noted(chunk)
        return super().submit(do, chunk)
workers.do_chunk, workers.ProcessPoolExecutor = do, Pool
write_atomically = cache.write_atomically
@contextmanager
def slowly(path):
    with write_atomically(path) as aside:
        yield aside
        time.sleep(0.5)
cache.write_atomically = slowly
sys.argv[1:] = sys.argv[2:]
runpy.run_module("laterna", run_name="__main__")
"""
"""`python -m laterna`, which notes the first row of each chunk that it checks or has checked, and
leaves what it writes aside there for long enough to be seen."""

Moment = Callable[[Path], bool]
"""Says of the folder of a set that is being made whether it is time."""


def part(number: int) -> Moment:
    return lambda place: part_path(place, number).is_file()


def half_a_part(number: int) -> Moment:
    """While it is written aside."""
    return lambda place: any(place.glob(f".{part_path(place, number).name}.*"))


MOMENTS: list[Moment] = [
    lambda place: (place / "lock").is_file(),
    part(0),
    half_a_part(1),
    half_a_part(2),
    part(PARTS - 2),
    lambda place: (place / MANIFEST).is_file(),
]
"""Each is the end of one process, and the next goes on."""


@pytest.fixture
def recipe(tmp_path: Path, tiny_models: Path) -> Path:
    rows = []
    for number in range(ROWS):
        said = "Yes. </s>" if number % 500 == 7 else "It is red. " * (1 + number % 5)
        spoken = [{"from": "human", "value": f"Is {number} red?"}, {"from": "gpt", "value": said}]
        rows.append({"id": number, "conversations": spoken})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    path = tmp_path / "recipe.toml"
    stage = f'data = "{tmp_path}/rows.json"\nconnector = {{mode = "full", lr = 1e-3}}'
    models = f'vision.source = "{tiny_models}/vision"\nlanguage.source = "{tiny_models}/language"'
    head = f'name = "tiny"\nprepared = "prepared"\n{models}'
    path.write_text(f"{head}\n[align]\n{stage}\n[instruct]\n{stage}\n")
    return path


class Prepare:
    """One process that prepares; its `prepared` is in the folder that it stands in."""

    def __init__(self, recipe: Path, folder: Path, workers: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.noted = folder / "prepared", recipe.with_name("noted")
        command = ["prepare", str(recipe), "--stage", "align", "--workers", str(workers)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(self.noted), *command],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )

    def place(self) -> Path | None:
        found = (path.parent for path in self.folder.glob("*/lock"))
        return next(found, None)

    def kill_at(self, moment: Moment) -> None:
        """Kill the process, and it alone, once it is time; it must not have ended before."""
        deadline = time.monotonic() + 300
        while not ((place := self.place()) and moment(place)):
            assert self.process.poll() is None, "it ended before the moment came"
            assert time.monotonic() < deadline
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL

    def chunks(self) -> list[int]:
        """The first rows of the chunks that were checked, in order."""
        return sorted(map(int, self.noted.read_text().split()))


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name != "lock"}


def kept(place: Path) -> dict[str, tuple[int, int]]:
    """The parts that are whole, each with what another of the same name would not have."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(place.glob("[0-9]*.arrow"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("workers", [ALONE, BESIDE])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    workers: int, recipe: Path, tmp_path: Path
) -> None:
    every = list(range(1, ROWS + 1, CHUNK_ROWS))
    whole = Prepare(recipe, tmp_path / "whole", ALONE)
    assert whole.process.wait() == 0
    assert whole.chunks() == every
    reference = whole.place()
    assert reference is not None
    assert sorted(kept(reference)) == [f"{number:05}.arrow" for number in range(PARTS)]
    done: dict[str, tuple[int, int]] = {}
    for moment in [*MOMENTS, None]:
        run = Prepare(recipe, tmp_path / "killed", workers)
        if moment is None:
            assert run.process.wait() == 0
        else:
            run.kill_at(moment)
        place = run.place()
        assert place is not None
        now = kept(place)
        assert done.items() <= now.items(), "what was done was done again"
        first = every[len(done) * PART_CHUNKS :]
        assert run.chunks() == first[: len(run.chunks())]
        done = now
    assert run.chunks() == []  # the one before was killed when all was done
    assert files(place) == files(reference)
