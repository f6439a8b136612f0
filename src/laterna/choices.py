"""An option's choices, read from the dictionary of pieces and written nowhere else.

`Annotated[str, KeysOf("laterna.evaluation.tasks:TASKS")]` is a text that the command line checks
against the dictionary's keys. The dictionary is imported when its own command is parsed, so the
help of other commands does not wait for it, and a piece that a program adds is among the choices.

A dictionary that many commands import must not import torch: `late` imports a piece's own module
when the piece is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec


class KeysOf(PrimitiveConstructorSpec[str]):
    """Choices of the command line: the keys of dictionaries, as MODULE:NAME, and those of `also`.

    The code that uses the value must look it up itself: a text from a recipe, or from Python, is
    not checked here.
    """

    nargs = 1

    def __init__(self, *places: str, also: tuple[str, ...] = ()) -> None:
        self.places = places
        self.also = also

    # Equal only if identical: comparing choices would import them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def choices(self) -> tuple[str, ...]:
        """The keys, in the dictionaries' order."""
        named = [place.partition(":") for place in self.places]
        keys = [key for module, _, name in named for key in getattr(import_module(module), name)]
        return (*self.also, *keys)

    @property
    def metavar(self) -> str:
        """The choices as the help shows them."""
        return "{" + ",".join(self.choices) + "}"

    def instance_from_str(self, words: list[str]) -> str:
        """Return the word itself; tyro has checked it against the choices."""
        return words[0]

    def is_instance(self, value: Any) -> bool:
        """Say whether a default can be shown."""
        return isinstance(value, str)

    def str_from_instance(self, value: str) -> list[str]:
        """Return the word as it is typed."""
        return [value]


class SomeKeysOf(PrimitiveConstructorSpec[tuple[str, ...]]):
    """Several keys of a dictionary, commas between, as in `--task pope,mme`; `none`: no key."""

    nargs = 1
    choices = None  # tyro would check the whole text against them

    def __init__(self, place: str) -> None:
        self._keys = KeysOf(place)

    __eq__ = object.__eq__  # as KeysOf
    __hash__ = object.__hash__

    @property
    def metavar(self) -> str:
        """The choices as the help shows them."""
        return f"{self._keys.metavar}[,...]"

    def instance_from_str(self, words: list[str]) -> tuple[str, ...]:
        """Return the keys; raises ValueError, tyro's wrong usage, for a name that is no key."""
        names = [name.strip() for name in words[0].split(",")]
        if names == ["none"]:
            return ()
        for name in names:
            if name not in self._keys.choices:
                known = ", ".join(self._keys.choices)
                raise ValueError(f"{name!r} is none of: {known}; separate several by commas")
        return tuple(dict.fromkeys(names))

    def is_instance(self, value: Any) -> bool:
        """Say whether a default can be shown."""
        return isinstance(value, tuple)

    def str_from_instance(self, value: tuple[str, ...]) -> list[str]:
        """Return the names as they are typed."""
        return [",".join(value) or "none"]


def late(place: str) -> Callable[..., Any]:
    """Return the function MODULE:NAME, whose module is imported when it is first called."""
    module, _, name = place.partition(":")

    def call(*args: Any, **named: Any) -> Any:
        return getattr(import_module(module), name)(*args, **named)

    return call
