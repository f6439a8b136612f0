"""What enrichments share: the libraries of their extra, and how the proxy writes a box."""

from __future__ import annotations

import importlib
from types import ModuleType

from laterna.errors import LaternaError
from laterna.records import Box


def import_extra(module: str, purpose: str) -> ModuleType:
    """Return a module of the extra `laterna[enrich]`; without it, LaternaError says what to do."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LaternaError(
            f"the enrichment {purpose!r} needs {module.partition('.')[0]} ({error}); "
            "install it with: pip install 'laterna[enrich]'"
        ) from error


def write_corners(box: Box) -> str:
    """Return `[x1, y1, x2, y2]` in 0..1, rounded to three decimals, as LLaVA's files write it."""
    # round() and not a fixed format: the published form writes 0.5, not 0.500.
    return str([round(value, 3) for value in (box.x1, box.y1, box.x2, box.y2)])
