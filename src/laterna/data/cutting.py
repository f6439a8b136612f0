"""How a tokenizer cuts a text into words that do not see each other, as an expression for `re`.

A word has the same ids wherever it stands, so it need be tokenised but once. None of that is taken
on trust. Where the tokenizer cuts by an expression, ours is that one, for the scripts whose words
are written apart, held against its own cutting on every neighbourhood of characters that such
expressions tell apart. Where nothing cuts (SentencePiece's kind of BPE, as Llama 2's), the merges
say that none joins a word to the space that begins the next.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from tokenizers import Tokenizer

from laterna.data.chat import any_of
from laterna.records import Record

SPACE = "▁"
"""What SentencePiece writes for a space."""
MOST_JOINED = 64
"""Texts that join words, with which a tokenizer is still said to cut between them (Gemma: one)."""
SURE = re.compile("(?<=[A-Za-z]) (?=[A-Za-z])")
"""Where every cutting here cuts, whatever stands around: before a space between two letters."""
_PLAIN = "".join(map(chr, [*b"\t\n\r", *range(0x20, 0x7F)]))
_OTHERS = "".join(
    chr(code)
    for first, last in (
        (0xA1, 0x24F),  # Latin
        (0x370, 0x52F),  # Greek, Cyrillic
        (0x1E00, 0x1EFF),  # Latin again, for Vietnamese
        (0x2010, 0x2027),  # dashes, quotation marks, dots
        (0x2030, 0x205E),
        (0x20A0, 0x22FF),  # currencies, arrows, signs of mathematics
    )
    for code in range(first, last + 1)
    if unicodedata.category(chr(code))[0] not in "MC"
)
"""Characters beside ASCII that are tried. Combining marks and other white space are not."""
_WITHOUT_SPACE = re.compile(f"[^{SPACE}]*")
_BY_SPACES = re.compile(r" *[^ ]+| +")

_GPT2 = r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_DIGITS = r"\p{N}|'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_CATEGORY = re.compile("[LMNPS][a-z]?")
_PARTS = re.compile(r"\\p\{(\w+)\}|\\.|\[\^?|\]|[^\\\[\]]", re.DOTALL)
_KINDS = ("a", "S", "l", "re", "1", "'", " ", "\n", ".")
"""One of every kind of characters that the expressions tell apart."""
_KINDS_BESIDE = "é²“Дº"
"""The same, beside ASCII."""
_COMPOSING = ("NFC", "NFD", "NFKC", "NFKD")
"""Normalisers that leave ASCII as it is."""


class Cutting(Record, frozen=True):
    """The words of a text: of a stretch of it without added tokens."""

    words: re.Pattern[str]
    """Finds the words of a text, one after the other, with nothing left between them."""
    domain: re.Pattern[str]
    """Matches the texts of which that holds."""
    spaced: bool
    """Whether a text may get a space of the tokenizer's own; all words but its first begin with
    one then."""
    joined: re.Pattern[str] | None = None
    """Finds what joins two words; a text that holds any is not cut."""


def find_cutting(backend: Tokenizer, said: dict[str, Any]) -> Cutting | None:
    """Return how a tokenizer cuts, None where that is not known; `said` is its `tokenizer.json`."""
    model, cut = said["model"], said["pre_tokenizer"] or {}
    if model.get("dropout"):
        return None
    steps = [step["type"] for step in _steps(said["normalizer"], "normalizers")]
    composes = all(step in _COMPOSING for step in steps)
    words = _expression(_steps(cut, "pretokenizers"))
    if words is not None:
        domain = _domain(backend, words) if composes else None
        return Cutting(words=words, domain=domain, spaced=False) if domain else None
    joined = [] if cut.get("split") else _joined_words(model)
    if joined is None or not _spaces(said, composes=composes):
        return None
    return Cutting(
        words=_BY_SPACES,
        domain=_only(_PLAIN) if composes and steps else _WITHOUT_SPACE,
        joined=any_of(joined) if joined else None,
        spaced=True,
    )


def _steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if not step:
        return []
    return list(step[name]) if step["type"] == "Sequence" else [step]


def _expression(steps: list[dict[str, Any]]) -> re.Pattern[str] | None:
    """Return by what a byte-level pre-tokenizer cuts; None where that is not known."""
    kinds = [step["type"] for step in steps]
    if kinds[-1:] != ["ByteLevel"] or steps[-1]["add_prefix_space"]:
        return None
    found: str | None = None
    if steps[-1]["use_regex"]:
        if kinds == ["ByteLevel"]:
            found = _GPT2
        elif kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            found = _GPT2_DIGITS
    elif kinds == ["Split", "ByteLevel"]:
        isolated = steps[0]["behavior"] == "Isolated" and not steps[0]["invert"]
        found = steps[0]["pattern"].get("Regex") if isolated else None
    return None if found is None else _for_python(found)


def _for_python(expression: str) -> re.Pattern[str] | None:
    """Return an expression in Python's syntax, for `_PLAIN` and `_OTHERS`; None where unknown."""
    written, inside = "", False
    for part in _PARTS.finditer(expression):
        name, text = part.group(1), part.group()
        if name is None:
            if inside and text[0] in "[&":
                return None  # a class within a class
            inside = text[0] == "[" or (inside and text != "]")
            written += text
        elif not _CATEGORY.fullmatch(name):
            return None
        else:
            said = [c for c in _PLAIN + _OTHERS if unicodedata.category(c).startswith(name)]
            written += _class_of(said) if inside else f"[{_class_of(said)}]" if said else "(?!)"
    try:
        found = re.compile(written, re.ASCII)
    except re.error:
        return None
    return None if found.groups else found


def _class_of(characters: Iterable[str]) -> str:
    """Return what stands for characters between brackets, in runs."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)


def _only(characters: Iterable[str]) -> re.Pattern[str]:
    return re.compile(f"[{_class_of(characters)}]*")


def _spaces(said: dict[str, Any], *, composes: bool) -> bool:
    """Say whether all that a tokenizer does before its model is to write spaces its own way."""
    cut = said["pre_tokenizer"]
    if cut is not None and (cut.get("pattern") != {"String": " "} or cut["invert"]):
        return composes and cut["type"] == "Metaspace" and cut["replacement"] == SPACE
    written = [
        step.get("prepend") or (step.get("pattern"), step.get("content"))
        for step in _steps(said["normalizer"], "normalizers")
    ]
    replaced = ({"String": " "}, SPACE)  # so nothing is left to cut at
    return replaced in written and all(one in (SPACE, replaced) for one in written)


def _joined_words(model: dict[str, Any]) -> list[str] | None:
    """Return the texts of which a BPE joins two words; None where that may be any.

    Only a merge of what is no space with a space behind it does, and only where its text stands.
    """
    changing = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(key) for key in changing):
        return None
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    joined = [(left, right) for left, right in pairs if right[0] == SPACE and left[-1] != SPACE]
    # At what is sure nothing may be joined: a letter, a space, and a letter or what comes to one.
    if len(joined) > MOST_JOINED or any(
        left[-1].isalpha() and (right == SPACE or right[1].isalpha()) for left, right in joined
    ):
        return None
    return [(left + right).replace(SPACE, " ") for left, right in joined]


def _domain(backend: Tokenizer, words: re.Pattern[str]) -> re.Pattern[str] | None:
    """Return what matches the texts that both cut alike; None where these are not all of ASCII."""
    key = (words.pattern, str(backend.normalizer), str(backend.pre_tokenizer))
    if key not in _domains:
        found = None
        if all(_cut_alike(backend, words, text) for text in _neighbourhoods()):
            around = "a{0}a 1{0}1 .{0}. '{0}s\n{0} {0}{0}a '{0}\n"
            alike = (c for c in _OTHERS if _cut_alike(backend, words, around.format(c)))
            found = _only([*_PLAIN, *alike])
        _domains[key] = found
    return _domains[key]


_domains: dict[tuple[str, ...], re.Pattern[str] | None] = {}


def _cut_alike(backend: Tokenizer, words: re.Pattern[str], text: str) -> bool:
    """Say whether both cut a text alike, and leave a word whole that stands alone."""
    own = words.findall(text)
    as_is = backend.normalizer is None or backend.normalizer.normalize_str(text) == text
    cut = [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]
    sure = SURE.search(text)
    halves = (text[: sure.start()], text[sure.start() :]) if sure else (text,)
    return (
        as_is
        and own == cut
        and all(words.findall(word) == [word] for word in own)
        and own == [word for half in halves for word in words.findall(half)]
    )


def _neighbourhoods() -> Iterator[str]:
    yield from map("".join, product(_KINDS, repeat=4))
    yield from map("".join, product(_KINDS, _PLAIN + _KINDS_BESIDE, _KINDS))
