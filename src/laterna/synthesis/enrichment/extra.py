"""Imports the libraries of the optional extra `laterna[enrich]`, only when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from laterna.errors import LaternaError


def import_extra(module: str, purpose: str) -> ModuleType:
    """Return a module of the extra; its absence raises LaternaError with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LaternaError(
            f"the enrichment {purpose!r} needs {module.partition('.')[0]} ({error}); "
            "install it with: pip install 'laterna[enrich]'"
        ) from error
