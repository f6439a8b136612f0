"""Saved states: a run that was killed goes on from the newest whole one, bit for bit.

    <folder>/<run>/step-00000040/   state.json      what it is: run, progress, checksums of files
                                    *.safetensors   weights that train, their moments, by shard
                                    metrics.jsonl   figures of the steps so far

A state is written aside, flushed to the disk, and renamed, so one that has its name is whole
unless the disk lost it afterwards, which its checksums tell. Several ranks write their shards
with torch's distributed checkpoint, and any other number of ranks can read them. Nothing in a
state is a pickle. On several machines the folder must lie on a file system that all share.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from laterna.data.fingerprints import FileHash, hash_all, read_signed, what_is_torn, write_signed
from laterna.errors import LaternaError
from laterna.files import flush, flush_tree
from laterna.training.distributed import Ranks
from laterna.training.learner import Learner, Progress
from laterna.version import __version__

FORMAT = 1
MANIFEST = "state.json"
METRICS = "metrics.jsonl"


class StateManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a saved state says of itself (`state.json`)."""

    format: int
    laterna: str
    """Version of Laterna that wrote it."""
    run: str
    """Digest of the run that it belongs to (`training.identity`)."""
    progress: Progress
    files: dict[str, FileHash]


class States:
    """The saved states of one run, in a folder that other runs may have states in too."""

    def __init__(self, folder: Path, run: str, ranks: Ranks, *, keep: int) -> None:
        self.shared = folder
        self.folder = folder / run[:16]
        self.run = run
        self.ranks = ranks
        self.keep = max(1, keep)

    def save(self, learner: Learner, metrics: Path) -> None:
        """Write a state of the learner and its metrics; the oldest beyond `keep` are removed.

        Raises LaternaError when it cannot be written, a full disk included; the states before it
        are then as they were.
        """
        name = f"step-{learner.progress.step:08d}"
        aside = self.folder / f".{name}.part"
        try:
            if self.ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self.ranks.wait()
            writer = HuggingFaceStorageWriter(path=str(aside), save_distributed=True)
            with _quiet():
                save(learner.tensors(), storage_writer=writer, no_dist=self.ranks.count == 1)
            if self.ranks.first:
                self._seal(aside, learner.progress, metrics)
                # Only a torn state, which was passed over, can have this name already.
                shutil.rmtree(self.folder / name, ignore_errors=True)
                aside.replace(self.folder / name)
                flush(self.folder)
                for state in self._all()[self.keep :]:
                    shutil.rmtree(state)
        except (OSError, CheckpointException) as error:
            if self.ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
            raise LaternaError(
                f"{self.folder / name}: cannot save the state: {_reason(error)}; the states saved "
                "before are kept: make room and run the same command again to go on"
            ) from error
        self.ranks.wait()

    def find(self) -> Found:
        """Find the newest whole state; every rank must ask, and rank 0 alone looks.

        States that are torn, or of another run, are named and passed over.
        """
        found, remarks = self._newest() if self.ranks.first else (None, [])
        step = int(self.ranks.total([found.progress.step if found else 0])[0])
        return Found(step=step, remarks=remarks)

    def restore(self, found: Found, learner: Learner, metrics: Path) -> None:
        """Put the state that was found into the learner, and its metrics in their place.

        Without one the learner stays at its beginning and old metrics are removed.
        """
        if not found.step:
            if self.ranks.first:
                metrics.unlink(missing_ok=True)
            return
        state = self.folder / f"step-{found.step:08d}"
        reader = HuggingFaceStorageReader(path=str(state))
        with _quiet():
            load(learner.tensors(), storage_reader=reader, no_dist=self.ranks.count == 1)
        manifest = read_signed(state / MANIFEST, StateManifest)
        learner.resume(manifest.progress)
        if self.ranks.first:
            shutil.copyfile(state / METRICS, metrics)

    def clear(self) -> None:
        """Remove this run's states, and the folder when nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.shared.is_dir() and not any(self.shared.iterdir()):
            self.shared.rmdir()

    def _seal(self, aside: Path, progress: Progress, metrics: Path) -> None:
        shutil.copyfile(metrics, aside / METRICS)
        manifest = StateManifest(
            format=FORMAT,
            laterna=__version__,
            run=self.run,
            progress=progress,
            files=hash_all(aside),
        )
        write_signed(aside / MANIFEST, manifest)
        flush_tree(aside)

    def _newest(self) -> tuple[StateManifest | None, list[str]]:
        """Return the newest whole state of this run, and a remark on all that is passed over."""
        remarks = [
            f"{other}: states of a run with other settings or data, not used"
            for other in sorted(self.shared.glob("*"))
            if other != self.folder
        ]
        for left in self.folder.glob(".*.part"):  # by a process that was killed
            shutil.rmtree(left)
        for state in self._all():
            try:
                return _whole(state, self.run), remarks
            except LaternaError as error:
                remarks.append(f"{error}; passed over")
        return None, remarks

    def _all(self) -> list[Path]:
        """Return the folders of the run's states, the newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back torch's remark that one process alone is not distributed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class Found(NamedTuple):
    """Where a run goes on."""

    step: int
    """Steps that are done; 0 without a state."""
    remarks: list[str]
    """What was passed over, for a person."""


def _whole(state: Path, run: str) -> StateManifest:
    """Read a state's manifest; raise LaternaError, naming what is torn or not of this run."""
    try:
        manifest = read_signed(state / MANIFEST, StateManifest)
    except LaternaError as error:
        raise LaternaError(f"{state}: not a whole state: {error}") from error
    if (manifest.format, manifest.run) != (FORMAT, run):
        raise LaternaError(f"{state}: a state of another run or another version of Laterna")
    torn = what_is_torn(state, manifest.files)
    if torn:
        raise LaternaError(f"{torn}, the state is torn")
    return manifest


def _reason(error: BaseException) -> str:
    """Return what went wrong: torch wraps the errors of the ranks."""
    if isinstance(error, CheckpointException):
        first = next(iter(error.failures.values()))[0]
        return _reason(first)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
