"""Files of a folder or hub id: JSON, and tensors from safetensors or from pickles of tensors alone.

Pickles are read with `weights_only=True`, which makes tensors and nothing else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from laterna.errors import LaternaError
from laterna.model.pretrained import read_part

INDEXES = {
    "model.safetensors.index.json": "model.safetensors",
    "pytorch_model.bin.index.json": "pytorch_model.bin",
}
"""Index of a sharded checkpoint, and the file that stands there when it is not sharded."""


def found_in(source: str, name: str) -> bool:
    """Say whether a folder or hub id holds a file."""
    return _path(source, name) is not None


def json_of(source: str, name: str) -> dict[str, Any]:
    """Read a JSON object; raises LaternaError when it is missing or damaged."""
    path = _path(source, name)
    if path is None:
        raise LaternaError(f"{source}: has no {name}")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise LaternaError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise LaternaError(f"{path}: holds no JSON object")
    return found


def tensors_of(source: str, names: Sequence[str]) -> dict[str, Tensor]:
    """Read the first of these files that is there, in float32; nothing when none is.

    Raises LaternaError for a damaged file, and for a pickle of more than tensors.
    """
    for name in names:
        path = _path(source, name)
        if path is not None:
            return _read(path)
    return {}


def sharded_tensors_of(source: str) -> dict[str, Tensor]:
    """Read a whole checkpoint, sharded or not, safetensors first; nothing when none is there.

    Raises LaternaError for a missing or damaged file, and for a pickle of more than tensors.
    """
    for index, single in INDEXES.items():
        if found_in(source, single):
            return tensors_of(source, [single])
        if not found_in(source, index):
            continue
        tensors: dict[str, Tensor] = {}
        for shard in sorted(set(json_of(source, index)["weight_map"].values())):
            path = _path(source, shard)
            if path is None:
                raise LaternaError(f"{source}: {shard} is missing, though {index} names it")
            tensors.update(_read(path))
        return tensors
    return {}


def _path(source: str, name: str) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    found = read_part(
        lambda: cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        ),
        source=source,
        what=name,
    )
    return Path(found) if found else None


def _read(path: Path) -> dict[str, Tensor]:
    def read() -> Any:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError("it holds no table of tensors")
        return found

    try:
        tensors: dict[str, Tensor] = read_part(read, source=str(path), what="weights")
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        # torch's words for a pickle that it refuses tell how to open it all the same.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "" if refused else ": " + " ".join(str(error).split())[:200]
        raise LaternaError(
            f"{path}: not read, for it is damaged or holds more than tensors{reason}"
        ) from error
    return {name: weight.to(torch.float32) for name, weight in tensors.items()}
