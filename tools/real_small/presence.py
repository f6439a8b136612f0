"""Is there a …? Questions in pairs: each thing is asked of an image with it and of one without.

Who does not look earns half, whatever he knows of how frequent things are. The image without the
thing is one where it is likely, by what stands together elsewhere. A thing is there where a box
has it; it is absent where neither box nor caption, nor a word for a wider or narrower kind, names
it (`laterna.scenes.kinds`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from laterna.records import Scene
from laterna.scenes.facts import gather_facts
from laterna.scenes.kinds import deniable, meant, taken_for
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords

CANDIDATES = 40
"""Images without a thing among which the likeliest is taken."""
MOST = 4
"""Questions about what is absent from one image, at most."""


class Asked(NamedTuple):
    """One question: whether this kind is in this image."""

    scene: Scene
    kind: str
    there: bool

    @property
    def text(self) -> str:
        """Return the question in POPE's words."""
        article = "an" if self.kind[:1] in tuple("aeiou") else "a"
        return f"Is there {article} {self.kind} in the image?"


class _Seen(NamedTuple):
    present: tuple[str, ...]
    absent: frozenset[str]


def ask_in_pairs(scenes: Sequence[Scene], *, each: int, seed: int) -> list[Asked]:
    """Return questions about scenes, at most `each` things that are there of every scene.

    Of every kind as many are to be answered yes as no. The same for the same seed.
    """
    seen = _look(scenes)
    often = Counter(kind for one in seen for kind in one.present)
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for one in seen:
        for kind in one.present:
            together[kind].update(one.present)
    rng = random.Random(seed)
    burden = Counter[int]()
    asked: list[Asked] = []
    for scene, own in zip(scenes, seen, strict=True):
        for kind in rng.sample(own.present, min(each, len(own.present))):
            drawn = rng.sample(range(len(scenes)), min(len(scenes), 4 * CANDIDATES))
            free = [at for at in drawn if kind in seen[at].absent and burden[at] < MOST]
            if not free:
                continue

            def likely(at: int, kind: str = kind) -> float:
                return sum(together[other][kind] / often[other] for other in seen[at].present)

            other = max(free[:CANDIDATES], key=likely)
            burden[other] += 1
            asked += [Asked(scene, kind, there=True), Asked(scenes[other], kind, there=False)]
    return asked


def _look(scenes: Sequence[Scene]) -> list[_Seen]:
    categories = sorted({box.category for scene in scenes for box in scene.boxes})
    words = ObjectWords(dict.fromkeys((*CATEGORIES, *categories)))
    asked = frozenset(deniable(categories))
    seen = []
    for scene in scenes:
        facts = gather_facts(scene.captions, scene.boxes, words, categories)
        held = meant((*facts.present, *facts.mentioned))
        absent = {kind for kind in facts.absent if kind in asked and not taken_for(kind, held)}
        present = tuple(dict.fromkeys(one.category for one in facts.things))
        seen.append(_Seen(tuple(kind for kind in present if kind in asked), frozenset(absent)))
    return seen
