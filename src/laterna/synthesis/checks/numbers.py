"""Reads number words and the vague ones that stand in their place."""

from __future__ import annotations

_TEENS = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        f"zero one two three four five six seven eight nine ten {_TEENS}".split()
    )
}
VAGUE = frozenset(
    """several many group groups crowd crowds crowded herd herds flock flocks bunch bunches
    row rows lot lots pile piles dozen dozens few some multiple various numerous variety
    assorted assortment couple pair pairs stack stacks other others collection array
    full filled covered traffic audience team teams family families number line lined
    lines set sets surrounded packed lots busy among different all every""".split()
)
"""Words of captions after which boxes are only a lower bound."""
MORE_THAN_ONE = frozenset("several many multiple numerous various few dozens".split())
"""Words of a reply that claim more than one."""
_BETWEEN = frozenset(
    """a an the red orange yellow green blue purple pink brown black white grey gray gold
    silver tan beige dark light bright colorful colourful small smaller large larger big
    bigger little tiny huge massive giant tall short long young old older elderly adult
    baby wild cute fluffy different separate individual empty full wooden metal plastic
    glass leather ceramic stuffed vintage antique modern parked visible other additional
    more distinct identical similar matching beautiful lovely adorable domestic male
    female uniformed standing sitting lying seated brightly colored coloured colour
    color double fresh ripe cooked whole half main bright striped spotted rough smooth
    plain shiny clear dry wet dirty clean ornate decorative round square rectangular and
    of , top bottom left right""".split()
)
"""Words that may stand between a number and what is counted."""
_GROUPS = frozenset("group groups set sets herd flock total pair row line stack bunch".split())


def read_number(word: str) -> int | None:
    """Return the number that a word tells; None for other words."""
    if word.isdigit() and len(word) <= 2:
        return int(word)
    return NUMBER_WORDS.get(word)


def number_at(spoken: tuple[str, ...], first: int) -> int | None:
    """Return the index of the number word that counts the mention at `first`, or None.

    Colours, sizes and the like may stand between: "three small brown dogs".
    """
    for at in range(first - 1, max(-1, first - 5), -1):
        if read_number(spoken[at]) is not None:
            # "one of the dogs" counts no dogs, and in "the other one, a dog" none is counted
            between = spoken[at + 1 : first]
            return None if {"of", ","}.intersection(between[:1]) else at
        if spoken[at] not in _BETWEEN:
            return None
    return None


def number_before(spoken: tuple[str, ...], first: int) -> int | None:
    """Return the number that counts the mention at `first`, or None."""
    at = number_at(spoken, first)
    return None if at is None else read_number(spoken[at])
