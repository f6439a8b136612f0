"""Reads a reply as sentences of words, with the things they name and how each is meant.

A question and its answer are read as the statements that they make together: "How many cups are
there?" "Two" says that there are two cups; "Is there a dog?" "No" says that there is none. What a
question takes for granted ("What colour is the dog?") is a claim too, unless the answer denies it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from laterna.records import Kind
from laterna.scenes.vocabulary import (
    CATEGORIES,
    CHECK_SYNONYMS,
    COLLECTIVES,
    COMPOUND_HEADS,
    DOUBTFUL,
    KIND_NAMES,
    OTHER_THINGS,
    TENS,
    UNITS,
    Mention,
    ObjectWords,
    WordSets,
    plural,
    read_patterns,
    words_of,
)
from laterna.synthesis.checks.polarity import Polarity, first_hedge, is_verb, polarity_of
from laterna.synthesis.parsing import Exchange

_W = WordSets(__package__, "sentences")

NUMBER_WORDS = {word: number for number, word in enumerate(UNITS)} | TENS
_REACH = 5


class Counted(NamedTuple):
    """The number that counts a mention."""

    value: int
    first: int
    """Index of the number's first word."""
    at_least: bool = False
    """There may be more: "another", "both"."""


def read_number(word: str) -> int | None:
    """Return the number that a word tells; None for other words."""
    if word.isdigit() and len(word) <= 3:
        return int(word)
    return NUMBER_WORDS.get(word)


def count_of(spoken: tuple[str, ...], mention: Mention) -> Counted | None:
    """Return the number that counts a mention, or None.

    Colours, sizes and the like may stand between: "three small brown dogs". A number above one
    before a singular counts nothing ("the 22 bus"), nor does one before a plural.
    """
    if mention.category in _W.paired:
        return None
    for at in range(mention.first - 1, max(-1, mention.first - 1 - _REACH), -1):
        found = _number_at(spoken, at, mention)
        if found is not None:
            agrees = mention.plural == (found.value != 1) or mention.category in _W.invariant
            agrees = agrees or (
                found.value == 1 and at == mention.first - 1
            )  # "how many dogs? one"
            beside = spoken[at + 1 : at + 2] == (",",)  # "the other one, a dog"
            return found if (agrees or found.at_least) and not beside else None
        if spoken[at] not in _W.between:
            return None
    return None


def several_at(spoken: tuple[str, ...], mention: Mention) -> bool:
    """Tell whether a vague word claims more than one of a mention."""
    return mention.plural and bool(_W.more_than_one.intersection(spoken[: mention.first][-3:]))


def _number_at(spoken: tuple[str, ...], at: int, mention: Mention) -> Counted | None:
    word, before = spoken[at], spoken[at - 1] if at else ""
    if word == "of" and before in COLLECTIVES:
        return _collective(spoken, at - 1)
    if word in ("dozen", "hundred"):
        return _collective(spoken, at)
    if word in _W.single:
        return None if mention.category == "bed" else Counted(1, at)
    if word in _W.at_least_two:
        return Counted(2, at, at_least=True)
    value = read_number(word)
    if value is None or before in _W.names_no_number:
        return None
    if before == "." and spoken[at - 2 : at - 1] and read_number(spoken[at - 2]) is not None:
        return None
    if value < 10 and before in TENS:
        return Counted(TENS[before] + value, at - 1)
    return Counted(value, at)


def _collective(spoken: tuple[str, ...], at: int) -> Counted | None:
    """Read "a pair", "two dozen", "half a dozen" that ends at an index."""
    value = COLLECTIVES[spoken[at]]
    before = spoken[max(0, at - 2) : at]
    if before == ("half", "a"):
        return Counted(value // 2, at - 2)
    times = read_number(before[-1]) if before else None
    return Counted(value * (times or 1), at - 1 if times else at)


_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+|\n+")
_POSSESSIVE = re.compile(r"(?<=[a-z])'s\b|(?<=s)'(?=\s)", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<=\s)'[^']*'(?=[\s.,;!?]|$)")
_HYPHENATED = re.compile(r"(?<=[a-z])-(?=[a-z]{3})", re.IGNORECASE)
_ASKS = read_patterns(__package__, "sentences")
_LONGEST_OTHER = max(len(phrase) for phrase in OTHER_THINGS)


class Naming(NamedTuple):
    """One naming of an object, and how it is meant."""

    category: str
    first: int
    """Index of its first word in the sentence."""
    last: int
    """Index after its last word."""
    plural: bool
    polarity: Polarity
    doubtful: bool
    """The word often means something else."""
    whole: bool
    """It means all of the category ("people"), not a part of it ("women")."""

    @property
    def mention(self) -> Mention:
        """The words without how they are meant."""
        return Mention(self.category, self.first, self.last, self.plural)


class Sentence(NamedTuple):
    """One sentence of a reply."""

    text: str
    words: tuple[str, ...]
    namings: tuple[Naming, ...]


@lru_cache(maxsize=64)
def check_words(more: tuple[str, ...] = ()) -> ObjectWords:
    """Return the words for COCO's categories and `more`."""
    return ObjectWords(dict.fromkeys((*CATEGORIES, *more)), CHECK_SYNONYMS)


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text; a line break ends one, a list's number is left out."""
    parts = (_LIST_NUMBER.sub("", part).strip() for part in _SENTENCE_END.split(text))
    return [part for part in parts if any(letter.isalnum() for letter in part)]


def plain(text: str) -> str:
    """Return a text with straight apostrophes and possessives apart: "the dog s bowl"."""
    return _POSSESSIVE.sub(" s", text.replace("’", "'"))


def read_sentence(text: str, words: ObjectWords, kind: Kind) -> Sentence:
    """Return a sentence with its namings; what it quotes ("a sign reads 'dog park'") names none."""
    said = plain(_QUOTED.sub(" quote ", text))
    spoken = tuple(words_of(said))
    joined = _joined(said)
    hedge = first_hedge(spoken, kind)
    namings = []
    for mention in words.mentions(said):
        if is_verb(spoken, mention) or mention.last - 1 in joined:
            continue
        phrase = " ".join(spoken[mention.first : mention.last])
        if spoken[mention.last : mention.last + 1] == ("s",) and phrase in _W.owners:
            continue
        several = mention._replace(plural=mention.plural or phrase.endswith("people"))
        namings.append(
            Naming(
                category=mention.category,
                first=mention.first,
                last=mention.last,
                plural=several.plural,
                polarity=polarity_of(spoken, mention, hedge, kind),
                doubtful=phrase in DOUBTFUL or _names_another(spoken, mention),
                whole=means_all(mention.category, phrase),
            )
        )
    first = namings[0] if namings else None
    if first and first.plural and not first.first and first.polarity == "uncertain":
        # "Cats hunt birds": whoever speaks of cats in general speaks of birds in general
        namings = [one._replace(polarity="uncertain") for one in namings]
    return Sentence(text, spoken, tuple(namings))


def _joined(said: str) -> set[int]:
    """Return the indices of words that a hyphen joins to the next: "dog-friendly"."""
    return {len(words_of(said[: found.start()])) - 1 for found in _HYPHENATED.finditer(said)}


def means_all(category: str, phrase: str) -> bool:
    """Tell whether a phrase means all of a category, as "people" does and "women" does not."""
    name = category.lower()
    return phrase in KIND_NAMES or phrase == name or phrase == plural(name)


def _names_another(spoken: tuple[str, ...], mention: Mention) -> bool:
    """Tell whether the mention is a part of a phrase that names something else."""
    after = spoken[mention.last : mention.last + 1]
    if after and after[0] in COMPOUND_HEADS and not mention.plural:
        return True
    for first in range(max(0, mention.first - 1), mention.last):
        for length in range(2, _LONGEST_OTHER + 1):
            if first + length > mention.first and spoken[first : first + length] in OTHER_THINGS:
                return True
    return False


def read_sentences(texts: Iterable[str], words: ObjectWords, kind: Kind) -> list[Sentence]:
    """Return the sentences of several texts, in order."""
    return [read_sentence(one, words, kind) for text in texts for one in sentences_of(text)]


_SHORT = 4
"""Words of a bare answer at most."""


class Statements(NamedTuple):
    """The sentences that an exchange states."""

    sentences: tuple[Sentence, ...]
    presumed: tuple[Sentence, ...]
    """What the question takes for granted: only its objects are checked."""


def read_statements(exchange: Exchange, words: ObjectWords, kind: Kind) -> Statements:
    """Return what a question and its answer state together."""
    answer = exchange.answer
    question = _last_question(exchange.question)
    folded = _fold(question, answer)
    said = [folded] if folded is not None else []
    rest = _without_bare(answer) if folded is not None else answer
    sentences = read_sentences([*said, rest] if rest else said, words, kind)
    presumed = []
    if question and _ASKS["wh"].match(question) and kind not in ("negative", "refusal"):
        # what the answer denies is not taken for granted; what it affirms is checked there
        told = {n.category for s in sentences for n in s.namings if n.polarity != "uncertain"}
        for sentence in read_sentences([exchange.question], words, kind):
            definite = tuple(
                naming
                for naming in sentence.namings
                if naming.category not in told and _is_definite(sentence, naming.first)
            )
            presumed.append(sentence._replace(namings=definite))
    return Statements(tuple(sentences), tuple(presumed))


def _last_question(text: str) -> str:
    """Return the question itself, without a request for a short answer after it."""
    asked = [part.strip() for part in re.split(r"(?<=[?.])\s+", plain(text)) if "?" in part]
    return asked[-1].rstrip("?").strip() if asked else ""


def _is_definite(sentence: Sentence, first: int) -> bool:
    before = sentence.words[max(0, first - 3) : first]
    return bool({"the", "this", "these", "those"}.intersection(before))


def _fold(question: str, answer: str) -> str | None:
    """Return the statement that question and the answer's first words make, if there is one."""
    if not question:
        return None
    spoken = [word for word in words_of(plain(answer)) if word.isalnum()]
    if not spoken:
        return None
    short = len(spoken) <= _SHORT
    if spoken[0] in ("yes", "no"):
        return _fold_yes_no(question, spoken[0] == "yes")
    if not short:
        return None
    bare = " ".join(spoken)
    if found := _ASKS["how_many"].match(question):
        number = bare.removeprefix("there are ").removeprefix("there is ")
        if not all(word in _W.counting or read_number(word) is not None for word in number.split()):
            return None
        bare = number + (" of" if number.split()[-1] in ("pair", "trio") else "")
        rest = found["rest"] or ""
        everything = _ASKS["all_of_them"].match(rest) is not None
        things = found["things"]
        return f"There are {bare} {things}." if everything else f"{bare} {things} {rest}."
    if found := _ASKS["colour_of"].match(question):
        return f"{found['thing']} is {bare.removeprefix('it is ')}."
    if found := _ASKS["where"].match(question):
        return f"{found['thing']} is {_at(bare)}."
    if found := _ASKS["what_at"].match(question):
        return f"There is a {bare} {found['place']}."
    return None


def _fold_yes_no(question: str, yes: bool) -> str | None:
    if found := _ASKS["existence"].match(question):
        thing = next(group for group in found.groups() if group)
        if yes:
            return f"There is {thing}."
        bare = re.sub(r"^(?:an?|any|some) ", "", thing, flags=re.IGNORECASE)
        bare = _ASKS["in_picture"].sub("", bare)
        return f"There is no {bare}."
    if found := _ASKS["relation"].match(question):
        return f"{found['thing']} is {'' if yes else 'not '}{found['relation']}."
    return None


def _at(place: str) -> str:
    if place.split()[0] in ("on", "at", "in", "to", "near", "above", "below", "behind", "next"):
        return place
    return f"in the {place}" if place.startswith(("cent", "middle")) else f"at the {place}"


def _without_bare(answer: str) -> str:
    """Leave out the "Yes," or the bare answer that the folded statement says already."""
    spoken = [word for word in words_of(plain(answer)) if word.isalnum()]
    if spoken[0] in ("yes", "no"):
        return re.sub(r"^\W*(?:yes|no)\b[\s,.;:!-]*", "", answer, flags=re.IGNORECASE)
    return ""
