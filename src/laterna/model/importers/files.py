"""Files of a folder or hub id: JSON, and the first of several files of tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from laterna.errors import LaternaError
from laterna.model.pretrained import file_of, tensors_in


def found_in(source: str, name: str) -> bool:
    """Say whether a folder or hub id holds a file."""
    return file_of(source, name) is not None


def json_of(source: str, name: str) -> dict[str, Any]:
    """Read a JSON object; raises LaternaError when it is missing or damaged."""
    path = file_of(source, name)
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
        path = file_of(source, name)
        if path is not None:
            return tensors_in(path)
    return {}
