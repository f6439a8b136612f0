"""The models that a network is built on, wherever they lie: known by what they hold."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from laterna.data.fingerprints import Fingerprints
from laterna.model.builtin import resolve
from laterna.model.packaged import PACKAGED, PREFIX, gguf_file
from laterna.model.vision.loading import packaged_weights

WEIGHTS = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja")
"""Ends of the names of the files in a model's folder that decide what is read from it."""


def local_weights(source: str) -> Path | None:
    """Return the file or folder on this machine that a model's source names.

    None for a hub id, and for what is not there. Raises LaternaError as `resolve` does.
    """
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        return gguf_file(source) if name in PACKAGED else packaged_weights(source)
    path = Path(resolve(source)) if source else None
    return path if path and path.exists() else None


def base_fingerprint(source: str, known: Fingerprints) -> str:
    """Return what tells a model from others: a digest of its files, or a hub's revision.

    Empty for one that is not there, which its reader will say.
    """
    path = local_weights(source)
    if path is not None:
        return known.of(str(path), WEIGHTS)
    try:
        found = cached_file(source, CONFIG_NAME) if source else None
    except (OSError, ValueError):
        return ""
    return Path(found).parent.name if found else ""  # of a commit, in the hub's cache
