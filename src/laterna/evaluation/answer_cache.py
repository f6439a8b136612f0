"""Answers that were given before, in one SQLite file: nothing is asked twice, however often killed.

The key of an answer is the SHA-256 of all that decides it: the model's fingerprint, the prompt,
the pixels of its images and the decoding. Each answer is committed as soon as it is whole, by the
thread that gave it, so a killed run loses only what was half answered.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import torch
from PIL import Image

from laterna.errors import LaternaError
from laterna.inference.generation import Decoding, Prompt
from laterna.model.vlm import VisionLanguageModel

CACHE_NAME = "answers.sqlite"
"""File in the folder that `--cache` names."""
_APPLICATION = 0x4C414E53
_VERSION = 1
_BUSY_SECONDS = 60.0
_PROBE = (37, 23)
"""Width and height of an image, wider than high, by which ways to prepare images are told apart."""


class Said(NamedTuple):
    """What an assistant said."""

    text: str
    probability: float | None = None
    """Of the whole answer, its end included; None where it was not measured."""


class AnswerCache:
    """Answers by key; close it, or use it in a `with` block. Without a path it lives in memory.

    Any thread may find and keep. Raises LaternaError for a file that is no such cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _connect(path)
        except sqlite3.DatabaseError as error:
            raise LaternaError(
                f"{path}: cannot be read as a cache of answers: {error}; name another place with "
                "--cache, or remove it to ask anew"
            ) from error

    def __enter__(self) -> AnswerCache:
        """Return the cache itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def find(self, key: bytes) -> Said | None:
        """Return the answer of this key; None where it was never given."""
        with self._lock:
            row = self._connection.execute(
                "SELECT text, probability FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Said(*row)

    def keep(self, key: bytes, said: Said) -> None:
        """Keep an answer; it is in the file when this returns. The first one of a key stays.

        Raises LaternaError where it cannot be written.
        """
        line = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)"
        try:
            with self._lock:
                self._connection.execute(line, (key, *said))
        except sqlite3.Error as error:
            raise LaternaError(f"{self.path}: the answer cannot be kept: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (application, version) != (_APPLICATION, _VERSION) and (tables or application):
            raise sqlite3.DatabaseError("it holds something else, or was made by another version")
        # A commit survives a kill, if not a power cut, for a fifth of the time.
        for line in ("journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {line}")
        if not application:
            connection.execute("BEGIN IMMEDIATE")  # of two processes that make it, one waits
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(key BLOB PRIMARY KEY, text TEXT NOT NULL, probability REAL) WITHOUT ROWID"
            )
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
    except sqlite3.DatabaseError:
        with closing(connection):
            raise
    return connection


def answer_key(model: str, prompt: Prompt, decoding: Decoding) -> bytes:
    """Return the key of a prompt's answer by the model of this fingerprint."""
    turns, images = prompt
    shown = [pixels_fingerprint(image) for image in images]
    content = (model, turns, shown, decoding)
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).digest()


def pixels_fingerprint(image: Image.Image) -> str:
    """Return the SHA-256 of an image's mode, size and pixels, hexadecimal."""
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def model_fingerprint(model: VisionLanguageModel) -> str:
    """Return what tells a network from any that may answer otherwise, hexadecimal.

    It covers all weights (their numbers' type and the kind of device included), tokenizer, chat
    template, the recipe's parts, and how an image is prepared.
    """
    digest = hashlib.sha256()
    recipe = model.recipe
    parts = (recipe.vision, recipe.connector, recipe.language) if recipe else ()
    told = (
        model.device.type,
        model.template,
        model.tokenizer.backend_tokenizer.to_str(),
        [msgspec.structs.replace(part, source="") for part in parts],
    )
    digest.update(msgspec.json.encode(told, order="deterministic"))
    probe = Image.linear_gradient("L").resize(_PROBE).convert("RGB")
    digest.update(_bytes(model.prepare([probe])))
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(_bytes(weight))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(plain.numpy())  # type: ignore[arg-type]
