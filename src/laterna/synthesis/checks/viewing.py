"""Tells whether words lead the viewer's eye: "looking to the left of the cat, you see a dog".

Who looks or moves to the left of a picture goes there, if a thing of the picture does; if it is
the viewer, the side is where the thing lies that comes next.
"""

from __future__ import annotations

_VERBS = frozenset(
    "look looks looking glance glancing gaze gazing move moving go going turn turning start "
    "starting begin beginning".split()
)
_VIEWERS = frozenset("you we viewer viewers i".split())
_CONDITIONS = frozenset("if when as once should".split())
_MAIN_CLAUSE = frozenset("you we one there viewers i you'll we'll you'd one'd there's".split())
_AROUND = frozenset("over across closely carefully out now".split())


def is_viewers(spoken: tuple[str, ...], at: int) -> bool:
    """Tell whether the verb at an index is one of looking or moving, and the viewer's own."""
    if spoken[at] not in _VERBS:
        return False
    before = spoken[at - 1] if at else ","
    if before in _VIEWERS:
        return True
    if before == "one":  # of two dogs, "one looks to the left"
        return at > 1 and spoken[at - 2] in _CONDITIONS
    if before == "by":
        return bool((_VIEWERS | {"one"}).intersection(spoken[:at]))
    if before not in (",", ";", ".", ":") or not spoken[at].endswith("ing"):
        return False
    # "Looking left, one sees a dog"; "looking to the left, the man waits" is the man's
    commas = [place for place in range(at + 1, len(spoken)) if spoken[place] == ","]
    return bool(commas) and bool(_MAIN_CLAUSE.intersection(spoken[commas[0] + 1 : commas[0] + 2]))


def is_lead(words: tuple[str, ...]) -> bool:
    """Tell whether words say no more than that the viewer looks: "if you look over"."""
    rest = set(words) - _VIEWERS - _CONDITIONS - _AROUND - {"one"}
    return bool(rest) and rest <= _VERBS


def is_sure(spoken: tuple[str, ...], at: int, seeing: frozenset[str]) -> bool:
    """Tell whether the modal at an index is that of "you would find the dog": it is there."""
    viewer = at > 0 and spoken[at - 1] in _VIEWERS | {"one"}
    if spoken[at] != "would" or not viewer:
        return False
    found = [place for place in range(at + 1, min(at + 4, len(spoken))) if spoken[place] in seeing]
    return bool(found) and spoken[found[0] + 1 : found[0] + 2] == ("the",)


def asks_to_look(spoken: tuple[str, ...], at: int) -> bool:
    """Tell whether the "if" at an index is that of "if you look": no condition at all."""
    viewer = spoken[at + 1 : at + 2]
    looks = spoken[at + 2 : at + 3]
    if spoken[at] != "if" or not viewer or not looks:
        return False
    return viewer[0] in _VIEWERS | {"one"} and looks[0] in _VERBS
