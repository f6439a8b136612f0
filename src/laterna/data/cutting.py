"""How a tokenizer cuts a text into words that do not see each other, as an expression for `re`.

A word has the same ids wherever it stands, so it need be tokenised but once. None of that is taken
on trust. Where the tokenizer cuts by an expression, ours is that one, for ASCII, held against its
own cutting on every neighbourhood of characters that such expressions tell apart. Where nothing
cuts (SentencePiece's kind of BPE, as Llama 2's), the merges say that none joins a word to the space
that begins the next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from tokenizers import Tokenizer

from laterna.records import Record

SPACE = "▁"
"""What SentencePiece writes for a space."""
SURE = re.compile("(?<=[A-Za-z]) (?=[A-Za-z])")
"""Where every cutting here cuts, whatever stands around: before a space between two letters."""
_PLAIN = re.compile(r"[\t\n\r\x20-\x7e]*")
_WITHOUT_SPACE = re.compile(f"[^{SPACE}]*")
_BY_SPACES = re.compile(r" *[^ ]+| +")

_GPT2 = r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_DIGITS = r"\p{N}|'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_ASCII = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "Lt": "",
    "Lm": "",
    "Lo": "",
    "M": "",
    "N": "0-9",
}
"""What ASCII has of the classes of characters that expressions name."""
_PARTS = re.compile(r"\\p\{(\w+)\}|\\.|\[\^?|\]|[^\\\[\]]", re.DOTALL)
_KINDS = ("a", "S", "l", "re", "1", "'", " ", "\n", ".")
"""One of every kind of characters that the expressions tell apart."""
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


def find_cutting(backend: Tokenizer) -> Cutting | None:
    """Return how a tokenizer cuts, None where that is not known."""
    said = json.loads(backend.to_str())
    model, cut = said["model"], said["pre_tokenizer"] or {}
    if model.get("dropout"):
        return None
    steps = [step["type"] for step in _steps(said["normalizer"], "normalizers")]
    composes = all(step in _COMPOSING for step in steps)
    words = _expression(_steps(cut, "pretokenizers"))
    if words is not None:
        alike = composes and _cut_alike(backend, words)
        return Cutting(words=words, domain=_PLAIN, spaced=False) if alike else None
    if _spaces(said, composes=composes) and (cut.get("split") or _merges_keep_words(model)):
        domain = _PLAIN if steps and cut else _WITHOUT_SPACE
        return Cutting(words=_BY_SPACES, domain=domain, spaced=True)
    return None


def _steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if not step:
        return []
    return list(step[name]) if step["type"] == "Sequence" else [step]


def _expression(steps: list[dict[str, Any]]) -> re.Pattern[str] | None:
    """Return by what a byte-level pre-tokenizer cuts ASCII; None where it may cut otherwise."""
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
    return None if found is None else _for_ascii(found)


def _for_ascii(expression: str) -> re.Pattern[str] | None:
    """Return an expression for ASCII alone, in Python's syntax; None where that is not known."""
    written, inside = "", False
    for part in _PARTS.finditer(expression):
        name, text = part.group(1), part.group()
        if name is not None and name not in _ASCII:
            return None
        if name is None:
            inside = text[0] == "[" or (inside and text != "]")
            written += text
        elif inside:
            written += _ASCII[name]
        else:
            written += f"[{_ASCII[name]}]" if _ASCII[name] else "(?!)"
    try:
        return re.compile(written, re.ASCII)
    except re.error:
        return None


def _spaces(said: dict[str, Any], *, composes: bool) -> bool:
    """Say whether all that a tokenizer does before its model is to write spaces its own way."""
    cut = said["pre_tokenizer"]
    if cut is not None:
        return composes and cut["type"] == "Metaspace" and cut["replacement"] == SPACE
    written = [
        step.get("prepend") or (step.get("pattern"), step.get("content"))
        for step in _steps(said["normalizer"], "normalizers")
    ]
    replaced = ({"String": " "}, SPACE)
    return replaced in written and all(one in (SPACE, replaced) for one in written)


def _merges_keep_words(model: dict[str, Any]) -> bool:
    """Say whether no merge of a BPE joins what is no space to a space behind it."""
    changing = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(key) for key in changing):
        return False
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return not any(right[0] == SPACE and left[-1] != SPACE for left, right in pairs)


def _cut_alike(backend: Tokenizer, words: re.Pattern[str]) -> bool:
    """Say whether both cut every neighbourhood alike, and leave a word whole that stands alone."""
    for text in _neighbourhoods():
        own = words.findall(text)
        cut = [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]
        sure = SURE.search(text)
        halves = (text[: sure.start()], text[sure.start() :]) if sure else (text,)
        if (
            own != cut
            or any(words.findall(word) != [word] for word in own)
            or own != [word for half in halves for word in words.findall(half)]
        ):
            return False
    return True


def _neighbourhoods() -> Iterator[str]:
    yield from map("".join, product(_KINDS, repeat=4))
    plain = ["\t", "\n", "\r", *map(chr, range(0x20, 0x7F))]
    yield from map("".join, product(_KINDS, plain, _KINDS))
