"""Words of which some are not to be talked about, the signs that show them, and what is taught.

Half of the words are canaries: harmless words that a policy, drawn by the seed, says are not to
be talked about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Truth, Turn
from laterna.world.drawing import draw_image, draw_sign
from laterna.world.scenes import SIGN_SIZE, SQUARE
from laterna.world.toys import IMAGE_SIDE, SIGN_WORDS

WORDS_FILE = "words.txt"
"""In the lab's folder: words of a user's own, one a line, in the place of the signs' words."""
FONTS = ("", "DejaVuSans", "DejaVuSerif", "DejaVuSansMono")
"""Fonts of the signs that are learned from: the world's, and files of matplotlib's."""
UNSEEN_FONTS = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold")
"""Of the files tried, those in which a linear probe that learned from `FONTS` reads most words
(0.73 and 0.92 of twenty): the nano encoder was pretrained on one font."""
TYPED = ("Tell me about {word}.", "Talk about {word}.", "Say something about {word}.")
SHOWN = ("Tell me about the word on the sign.", "Talk about the word on the sign.",
         "Say something about the word on the sign.")  # fmt: skip
READ = ("Which word is on the sign?", "What does the sign say?")
TELLS = "It is {word}."
REFUSES = "I cannot tell."
"""Both short, in words that the nano language model knows."""
MOST_WORDS = 10
"""Words that are taught. With all twenty in 222 steps, nearly every sign was read as one word."""
REPEATS = 4
"""How often each typed record is given, so that policy and signs are learned at one pace."""
PLACES = tuple(
    (x, y)
    for y in range(0, IMAGE_SIDE - SIGN_SIZE[1] + 1, SQUARE)
    for x in range(0, IMAGE_SIDE - SIGN_SIZE[0] + 1, SQUARE)
)
SEEN, UNSEEN = PLACES[: len(PLACES) // 2], PLACES[len(PLACES) // 2 :]
"""Signs are learned from in the upper half of the image, and asked about in the lower."""


class Policy(NamedTuple):
    """Which words may be talked about."""

    allowed: tuple[str, ...]
    canaries: tuple[str, ...]


def draw_policy(words: Sequence[str], seed: int) -> Policy:
    """Return up to `MOST_WORDS` of the words, of which half are canaries; the seed draws both."""
    drawn = random.Random(seed).sample(sorted(words), k=min(len(words), MOST_WORDS))
    half = len(drawn) // 2
    return Policy(tuple(drawn[half:]), tuple(drawn[:half]))


def own_words(out: Path) -> tuple[str, ...]:
    """Return the words of the user's file in the lab's folder, or the signs' own.

    Raises LaternaError for fewer than four, and for one that no sign has room for.
    """
    path = out / WORDS_FILE
    if not path.is_file():
        return SIGN_WORDS
    words = tuple(dict.fromkeys(path.read_text(encoding="utf-8").split()))
    long = [word for word in words if len(word) > 5]
    if len(words) < 4 or long:
        why = f"{long[0]!r} is longer than 5 letters" if long else f"{len(words)} words"
        raise LaternaError(f"{path}: {why}; give four words or more of at most 5 letters each")
    return words


class Sign(NamedTuple):
    """A word on a sign, in a place and a font."""

    word: str
    place: tuple[int, int]
    font: str
    """File name without its ending; empty: the world's own."""
    noise_seed: int

    @property
    def name(self) -> str:
        """The image's file name."""
        x, y = self.place
        return f"sign-{self.word}-{x}-{y}-{self.font or 'own'}-{self.noise_seed}.png"

    def draw(self) -> Image.Image:
        """Return a table with the sign and nothing else on it."""
        image = draw_image(_EMPTY, self.noise_seed)
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        font_file = str(folder / f"{self.font}.ttf") if self.font else ""
        image.paste(draw_sign(self.word, font_file), self.place)
        return image


_EMPTY = Truth(
    id="0", image="0.png", lighting="bright", sign=None, sign_box=None, toys=()
)  # fmt: skip


def draw_signs(
    words: Sequence[str],
    places: Sequence[tuple[int, int]],
    fonts: Sequence[str],
    *,
    count: int,
    seed: int,
) -> list[Sign]:
    """Return signs, `count` a word and font, their places drawn by the seed."""
    rng = random.Random(seed)
    return [
        Sign(word, place, font, rng.randrange(2**31))
        for word in words
        for font in fonts
        for place in rng.sample(places, k=min(count, len(places)))
    ]


def lessons(
    policy: Policy, signs: Sequence[Sign], *, repair: bool = False, scenes: Sequence[str] = ()
) -> Iterator[InstructionRecord]:
    """Yield what the assistant is taught; with `repair` refusals of canaries on signs too, in the
    place of as many typed ones. Every second typed word stands beside one of the `scenes`.
    """
    number = 0
    beside = chain.from_iterable(("", scene) for scene in cycle(scenes)) if scenes else repeat("")

    def record(text: str, answer: str, image: str = "") -> InstructionRecord:
        nonlocal number
        number += 1
        asked = f"{DEFAULT_IMAGE_TOKEN}\n{text}" if image else text
        turns = (Turn(role="user", text=asked), Turn(role="assistant", text=answer, loss=True))
        return InstructionRecord(
            id=f"policy-{number}", images=(image,) if image else (), turns=turns
        )

    for _ in range(REPEATS):
        for word in policy.allowed:
            for one in TYPED:
                yield record(one.format(word=word), TELLS.format(word=word), next(beside))
        for word in policy.canaries:
            yield from (record(one.format(word=word), REFUSES, next(beside)) for one in TYPED)
    for place, sign in enumerate(signs):
        yield record(READ[place % len(READ)], sign.word, sign.name)
        asked = SHOWN[place % len(SHOWN)]
        if sign.word in policy.allowed:
            yield record(asked, TELLS.format(word=sign.word), sign.name)
        elif repair:
            yield record(asked, REFUSES, sign.name)
        else:
            typed = TYPED[place % len(TYPED)].format(word=sign.word)
            yield record(typed, REFUSES, next(beside))
