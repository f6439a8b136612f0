"""What teachers write around an answer, taken off by rule, and what no rule takes off.

`tidy` takes off, each counted under its name in `Tidied.stripped`:

- thoughts: `<think>…</think>` and its like, whole, or up to a closing mark alone;
- special tokens at either end (`<|im_end|>`, `</s>`), invisible characters (NUL, direction marks,
  zero-width blanks), code fences, headings, marks of bold type;
- a preamble ("Sure! Here is the conversation:") and a closing remark ("Let me know if …").

`faults` and `foreign` find what remains and must not be trained on: a thought without end, what
stands for an image (`<image>`, `<video>`, `[IMG]`), special tokens in the middle, thinking aloud,
gibberish, another language than the request's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from laterna.records import Finding
from laterna.scenes.vocabulary import read_patterns
from laterna.synthesis.parsing import bare_question, label_of

_SAYS = read_patterns(__package__, "tidying")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]|(?<!\\S)\ufffd+(?!\\S)"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_COMMON = frozenset(
    "a an the of in on at to for from with by near and or but is are was were be been being has "
    "have had do does did it its this that these those there they them their he she his her him i "
    "you we who what which where when how why as not no yes can could would may might will should "
    "into over under behind beside next while if so than then some one two three all both each "
    "other more most very just also only about up down out off your my our".split()
)
"""Words that English cannot do without."""
_FEWEST_WORDS, _LEAST_COMMON = 8, 0.1
"""From so many words on, so large a share of them is common: the real replies have 0.28 at least
(tests/synthesis/test_tidying.py)."""
_LONGEST_WORD = 45
_DEEPEST_THOUGHT = 4
"""Thoughts in thoughts that are taken off."""
_LATIN = 0x24F
"""The last letter of Latin Extended-B."""
_MOST_REPEATS, _LONGEST_PHRASE = 6, 6


class Tidied(NamedTuple):
    """A reply's text without what stood around the answer."""

    text: str
    stripped: tuple[str, ...] = ()
    """What was taken off, by name."""


def tidy(text: str) -> Tidied:
    """Return a reply's text without what stands around the answer; tidied again, it is the same."""
    stripped: dict[str, None] = {}
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").strip()
    rules: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("invisible characters", lambda said: _INVISIBLE.sub("", said)),
        ("thoughts", _without_thoughts),
        ("special tokens", lambda said: _SAYS["trailing"].sub("", _SAYS["leading"].sub("", said))),
        ("code fences", lambda said: _SAYS["fence"].sub("", said)),
        ("preambles", _without_preamble),
        ("headings", _without_headings),
        ("preambles", _without_preamble),
        ("closing remarks", lambda said: _SAYS["remark"].sub("", said)),
        ("bold type", _without_bold),
    )
    for name, rule in rules:
        changed = rule(text).strip()
        if changed != text:
            stripped[name] = None
            text = changed
    return Tidied(text, tuple(stripped))


def faults(text: str) -> tuple[Finding, ...]:
    """Find what must not be trained on in a tidied reply, whatever was asked."""
    if _SAYS["opens"].search(text):
        return (finding("unclosed thought", text, "it begins to think and never answers"),)
    mark = _SAYS["marks"].search(text)
    if mark:
        return (finding("mark of an image", text, f"{mark.group()!r} would be taken for one"),)
    special = _SAYS["anywhere"].search(text)
    if special:
        return (finding("special token", text, f"{special.group()!r} in the middle of it"),)
    aloud = _SAYS["aloud"].match(text)
    if aloud:
        return (finding("thinking aloud", text, f"{aloud.group().strip()!r} is no answer"),)
    why = gibberish(text)
    return (finding("gibberish", text, why),) if why else ()


def gibberish(text: str) -> str:
    """Return why a text is no language at all, "" where it may be one."""
    words = [word.lower() for word in _WORD.findall(text)]
    if "\ufffd" in text:
        return "characters of it were lost"
    longest = max(words, key=len, default="")
    if len(longest) > _LONGEST_WORD and ord(max(longest)) <= _LATIN:
        return f"{longest[:30]!r}… is no word"
    for size in range(1, _LONGEST_PHRASE + 1):
        run = 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            if run >= size * (_MOST_REPEATS - 1):
                phrase = " ".join(words[place + 1 - size : place + 1])
                return f"it says {phrase!r} over and over"
    return ""


def foreign(text: str, request: str) -> tuple[Finding, ...]:
    """Find that a reply is in another language than all that was sent to ask for it."""
    # The request is long and its answer is not: it is only read where it matters.
    others = _scripts(text)
    others = others - _scripts(request) if others else others
    if others:
        why = f"letters that the request has none of: {', '.join(sorted(others)).lower()}"
    elif (
        len(_WORD.findall(text)) >= _FEWEST_WORDS
        and _share(text) < _LEAST_COMMON
        # Asked in another language than English: which, is not for us to tell.
        and _share(request) >= _LEAST_COMMON
    ):
        why = "hardly a word of it is one that English cannot do without"
    else:
        return ()
    return (finding("foreign language", text, why),)


def _share(text: str) -> float:
    words = [word.lower() for word in _WORD.findall(text)]
    return sum(word in _COMMON for word in words) / max(1, len(words))


def _scripts(text: str) -> set[str]:
    """Return the scripts of a text's letters beyond Latin ones, as Unicode names them."""
    letters = {sign for sign in set(text) if ord(sign) > _LATIN and sign.isalpha()}
    names = {unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0] for letter in letters}
    return names - {"LATIN", "MODIFIER", "FULLWIDTH", "FEMININE", "MASCULINE"}


def _without_thoughts(text: str) -> str:
    parts = _SAYS["final"].split(text)
    text = parts[-1]
    for _ in range(_DEEPEST_THOUGHT):
        text = _SAYS["thought"].sub("", text)
    closed = list(_SAYS["closes"].finditer(text))
    return text[closed[-1].end() :] if closed else text


def _without_preamble(text: str) -> str:
    if label_of(text.partition("\n")[0]):
        return text
    rest = _SAYS["preamble"].sub("", text, count=1).lstrip()
    return rest[:1].upper() + rest[1:] if rest != text else text


def _without_headings(text: str) -> str:
    lines = text.split("\n")
    kept = [line for line in lines if label_of(line) or not _SAYS["heading"].match(line)]
    return "\n".join(kept) if len(kept) < len(lines) else text


def _without_bold(text: str) -> str:
    return "\n".join(
        line if label_of(line) or bare_question(line) else _SAYS["bold"].sub(r"\2", line)
        for line in text.split("\n")
    )


def finding(reason: str, text: str, detail: str) -> Finding:
    """Return a finding about a text as a whole."""
    return Finding(reason=reason, sentence=text.strip()[:300], detail=detail)
