"""Settings out of their types' bounds, by msgspec, and what is wrong with them in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import msgspec

from laterna.errors import LaternaError

_KINDS = {"int": "a whole number", "float": "a number"}
_SIGNS = {">=": "of at least", ">": "above", "<=": "of at most", "<": "below"}


def require_bounds(settings: msgspec.Struct, named: Callable[[str], str]) -> None:
    """Raise LaternaError for settings made in memory that are out of their types' bounds, or not
    finite.

    `named` turns the place of a wrong one (`align.epochs`) into the beginning of the message.
    """
    for place, number in _numbers(settings):
        if not math.isfinite(number):
            raise LaternaError(f"{named(place)} {number}: not a finite number")
    try:
        plain = msgspec.to_builtins(settings, enc_hook=str)
        msgspec.convert(plain, type(settings), dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        place, fault = wrong_value(error, settings)
        raise LaternaError(f"{named(place)}{fault}") from error


def wrong_value(error: msgspec.ValidationError, settings: object) -> tuple[str, str]:
    """Return the dotted place of a value that was refused, and " VALUE: what to give instead".

    `settings` are the structs or dictionaries with the value. The place is empty where the error
    names none.
    """
    message, _, where = str(error).partition(" - at `$.")
    place = where.rstrip("`")
    if isinstance(settings, msgspec.Struct):  # the command line names an option with all its values
        place = re.sub(r"\[[^]]*\]$", "", place)
    value = settings
    for name in re.findall(r"[^.\[\]]+", place):
        if isinstance(value, list | tuple):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else value
        else:
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
    whole = isinstance(value, dict | list | msgspec.Struct)
    return place, f"{'' if whole else ' ' + shown}: {_in_words(message)}"


def _in_words(message: str) -> str:
    """Return msgspec's "Expected `int` >= 1" as "give a whole number of at least 1"."""
    found = re.fullmatch(r"Expected `(int|float)` (>=|>|<=|<) (\S+)", message)
    if found is None:
        return f"{message[:1].lower()}{message[1:]}"
    kind, sign, bound = found.groups()
    return f"give {_KINDS[kind]} {_SIGNS[sign]} {bound.removesuffix('.0')}"


def _numbers(value: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every float, with its place."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _numbers(getattr(value, name), f"{place}.{name}" if place else name)
    elif isinstance(value, tuple):
        for one in value:
            yield from _numbers(one, place)
