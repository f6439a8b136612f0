"""Which run this is, and its saved states: one that was stopped or killed goes on, bit for bit.

    <folder>/<run>/step-00000040/   state.json      what it is: run, progress, checksums of files
                                    *.safetensors   weights that train, their moments, by shard
                                    metrics.jsonl   figures of the steps so far

A state is written aside, flushed to the disk, and renamed, so one that has its name is whole
unless the disk lost it afterwards, which its checksums tell. Several ranks write their shards
with torch's distributed checkpoint, and any other number of ranks can read them. Nothing in a
state is a pickle. On several machines the folder must lie on a file system that all share.

SIGTERM and SIGINT finish the step, save, and leave. Spot machines give little more time than that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import msgspec
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from laterna.data.fingerprints import (
    FileHash,
    Fingerprints,
    hash_all,
    read_signed,
    what_is_torn,
    write_signed,
)
from laterna.data.preparation import FINGERPRINTS
from laterna.data.sources import HUB
from laterna.errors import LaternaError
from laterna.files import flush, flush_tree
from laterna.model import checkpoint as checkpoints
from laterna.model.checkpoint import checkpoint_fingerprint, read_manifest
from laterna.model.sources import WEIGHTS, base_fingerprint
from laterna.recipe import PartName, Recipe, StageName
from laterna.training.parallel import Ranks
from laterna.training.train_state import CHANGES_RESULTS, Progress, TrainState
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
    """Digest of the run that it belongs to (`run_digest`)."""
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

    def save(self, train_state: TrainState, metrics: Path) -> None:
        """Save a state and its metrics; the oldest beyond `keep` are removed.

        Raises LaternaError when it cannot be written, a full disk included; earlier states then
        stay as they were.
        """
        name = f"step-{train_state.progress.step:08d}"
        aside = self.folder / f".{name}.part"
        try:
            if self.ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self.ranks.wait()
            writer = HuggingFaceStorageWriter(path=str(aside), save_distributed=True)
            with _quiet():
                save(train_state.tensors(), storage_writer=writer, no_dist=self.ranks.count == 1)
            if self.ranks.first:
                self._seal(aside, train_state.progress, metrics)
                # Only a torn state, which was not used, can have this name already.
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
        """Find the newest whole state; every rank must call it, and rank 0 alone reads.

        States that are torn, or of another run, are reported and not used.
        """
        found, remarks = self._newest() if self.ranks.first else (None, [])
        step = int(self.ranks.total([found.progress.step if found else 0])[0])
        return Found(step=step, remarks=remarks)

    def restore(self, found: Found, train_state: TrainState, metrics: Path) -> None:
        """Load the state that was found, and put its metrics back.

        Without one nothing is loaded, and old metrics are removed.
        """
        if not found.step:
            if self.ranks.first:
                metrics.unlink(missing_ok=True)
            return
        state = self.folder / f"step-{found.step:08d}"
        reader = HuggingFaceStorageReader(path=str(state))
        with _quiet():
            load(train_state.tensors(), storage_reader=reader, no_dist=self.ranks.count == 1)
        manifest = read_signed(state / MANIFEST, StateManifest)
        train_state.resume(manifest.progress)
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
        """Return the newest whole state of this run, and a remark on each that is not used."""
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
    """Silence torch's warning that one process alone is not distributed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class Found(NamedTuple):
    """Where a run goes on."""

    step: int
    """Steps that are done; 0 without a state."""
    remarks: list[str]
    """Lines about the states that are not used."""


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


HOW = ("run", "threads", "prepared", "feature_cache")
"""Settings of how a run is carried out. Their names are left out too, so that a run can be resumed
by a later version that adds one."""


def run_digest(
    recipe: Recipe, stage: StageName, init_from: Path | None, known: Fingerprints | None = None
) -> str:
    """Digest a stage's settings, data and first weights; equal digests mean equal results.

    How the run is carried out (`HOW`, and savings that change no results) and the other stage
    are left out. Models count by their contents, wherever they are. Images count by their names,
    and in a dataset's folder by their contents. `known` is what is known of files at this start;
    None: they are read now. Raises LaternaError where the hub that data comes from does not answer,
    and for an `init_from` that is no checkpoint.
    """
    known = known or Fingerprints(Path(recipe.prepared) / FINGERPRINTS)
    changing = sorted(CHANGES_RESULTS.intersection(recipe.savings))
    settings = msgspec.structs.replace(
        recipe.with_savings(*changing),
        align=recipe.stage(stage),
        instruct=recipe.stage(stage),
    )
    plain = msgspec.to_builtins(settings)
    for name in HOW:
        del plain[name]
    weights, inside = _start(init_from, known)
    for part in ("vision", "connector", "language"):
        source = plain[part]["source"]
        plain[part]["source"] = "" if part in inside else base_fingerprint(source, known) or source
    digest = hashlib.sha256(msgspec.json.encode((stage, plain, weights)))
    for source in settings.align.mixture():
        if source.data.startswith(HUB) or Path(source.data).exists():  # else others report it
            digest.update(known.of(source.data).encode())
    return digest.hexdigest()


def _start(init_from: Path | None, known: Fingerprints) -> tuple[str, tuple[PartName, ...]]:
    """Return the fingerprint of what a stage starts from, and the parts whose weights are in it."""
    if init_from is None or not init_from.exists():
        return "", ()
    if (init_from / checkpoints.MANIFEST).is_file():
        return checkpoint_fingerprint(init_from, known), read_manifest(init_from).parts
    return known.of(str(init_from), WEIGHTS), ()


GRACE_SECONDS = 25.0
"""From the signal to the end of the process at the latest; spot machines stop after 30."""


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0

    def leave(self) -> None:
        """End the process as the signal would have: status 130 for SIGINT, 143 for SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.signal or signal.SIGTERM))


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGTERM or SIGINT inside into a request; a second one ends at once.

    A step that lasts longer than the grace time is abandoned: the process then ends with what was
    saved before. Outside the main thread, where Python cannot catch signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    timers: list[threading.Timer] = []

    def asked(number: int, _frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(number, before[signal.Signals(number)])
        timer = threading.Timer(GRACE_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
        timers.append(timer)

    for number in before:
        signal.signal(number, asked)
    try:
        yield request
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
