"""The one exception that speaks to a person: programs print it and exit 2."""

from __future__ import annotations

import errno
import math
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

import msgspec

KINDS = {"int": "a whole number", "float": "a number"}
SIGNS = {">=": "of at least", ">": "above", "<=": "of at most", "<": "below"}


class LaternaError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do."""


def package(name: str, extra: str, what: str) -> ModuleType:
    """Import a package that not every installation has; `extra` is ours that brings it.

    Raises LaternaError, which names `what` needs it and how to get it, where it is not there.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise LaternaError(
            f"{what} needs the package {name}; run `pip install 'laterna[{extra}]'` ({error})"
        ) from error


def told(work: Callable[[], object]) -> int:
    """Do a program's work; return its exit status: 0, or 2 when what the user can mend was told."""
    try:
        work()
    except LaternaError as error:
        message = str(error)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        message = f"{error.filename or 'disk'}: {error.strerror}"
    else:
        return 0
    sys.stderr.write(f"laterna: {message}\n")
    return 2


def require_bounds(settings: msgspec.Struct, told: Callable[[str], str]) -> None:
    """Hold settings that were put together in memory to the bounds of their types, and every
    number to being finite.

    `told` makes words of the place of a wrong one (`align.epochs`). Raises LaternaError.
    """
    for place, number in _numbers(settings):
        if not math.isfinite(number):
            raise LaternaError(f"{told(place)} {number}: not a finite number")
    try:
        plain = msgspec.to_builtins(settings, enc_hook=str)
        msgspec.convert(plain, type(settings), dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `$.")
        place = re.sub(r"\[.*", "", where.rstrip("`"))
        value: object = settings
        for name in place.split(".") if place else ():
            value = getattr(value, name, None)
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise LaternaError(f"{told(place)} {shown}: {_in_words(said)}") from error


def _in_words(said: str) -> str:
    """Say a bound as a person would: msgspec writes "Expected `int` >= 1"."""
    found = re.fullmatch(r"Expected `(int|float)` (>=|>|<=|<) (\S+)", said)
    if found is None:
        return f"{said[:1].lower()}{said[1:]}"
    kind, sign, bound = found.groups()
    return f"give {KINDS[kind]} {SIGNS[sign]} {bound.removesuffix('.0')}"


def _numbers(value: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number that need not be whole, with its place."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _numbers(getattr(value, name), f"{place}.{name}" if place else name)
    elif isinstance(value, tuple):
        for one in value:
            yield from _numbers(one, place)
