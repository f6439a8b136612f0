"""The nano base models that ship inside the package, by name."""

from __future__ import annotations

from pathlib import Path

from laterna.errors import LaternaError

PREFIX = "builtin:"
_SHIPPED = Path(__file__).parent.parent / "world" / "models"

BUILTIN: dict[str, Path] = {
    "nano-vit": _SHIPPED / "vision",
    "nano-llama": _SHIPPED / "language",
}


def resolve(source: str) -> str:
    """Turn `builtin:NAME` into the folder of a shipped model; return anything else unchanged.

    Raises LaternaError for a name that no shipped model bears.
    """
    if not source.startswith(PREFIX):
        return source
    name = source.removeprefix(PREFIX)
    if name not in BUILTIN:
        known = ", ".join(PREFIX + key for key in BUILTIN)
        raise LaternaError(f"{source}: no such shipped model; use one of {known}")
    return str(BUILTIN[name])
