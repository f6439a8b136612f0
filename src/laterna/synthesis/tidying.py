"""What teachers write around an answer, taken off by rule, and what no rule takes off.

`tidy` takes off, each counted under its name in `Tidied.stripped`:

- thoughts: `<think>…</think>` and its like, whole, or up to a closing mark alone;
- special tokens at either end (`<|im_end|>`, `</s>`), invisible characters (NUL, direction marks,
  zero-width blanks), code fences, headings, marks of bold type;
- a preamble ("Sure! Here is the conversation:") and a closing remark ("Let me know if …").

`faults` and `foreign` find what remains and must not be trained on: a thought without end, special
tokens in the middle, thinking aloud, gibberish, another language than the request's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from laterna.records import Finding
from laterna.synthesis.parsing import bare_question, label_of

_TAGS = r"think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad"
_OPEN = rf"(?:<(?:{_TAGS})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>)"
_CLOSE = rf"(?:</(?:{_TAGS})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>)"
_THOUGHT = re.compile(rf"{_OPEN}(?:(?!{_OPEN}).)*?{_CLOSE}", re.DOTALL | re.IGNORECASE)
_OPENS, _CLOSES = re.compile(_OPEN, re.IGNORECASE), re.compile(_CLOSE, re.IGNORECASE)
_FINAL = re.compile(r"<\|channel\|>\s*final\s*(?:<\|[^|>]*\|>)*", re.IGNORECASE)
"""Where a model that writes into channels (gpt-oss) begins the answer proper."""
_ROLE = r"(?:assistant|model|final)(?=\s|$)"
_SPECIAL = (
    r"(?:<[|｜][^|｜<>\n]{1,40}[|｜]>|</?s>|</?(?:bos|eos|pad|unk|start_of_turn|end_of_turn|"
    r"image|start_of_image)>|\[/?(?:INST|BOS|EOS|PAD|IMG|OUT)\]|<</?SYS>>|"
    r"<unused\d+>|<0x[0-9A-F]{2}>)"
)
_WRAPPER = r"</?(?:answer|output|response|final)>"
_LEADING = re.compile(
    rf"^(?:\s*(?:{_SPECIAL}(?:{_ROLE})?|{_WRAPPER}(?!.*<(?:question|q)>)))+", re.I
)
_TRAILING = re.compile(rf"(?:(?:{_SPECIAL}|{_WRAPPER})\s*)+\Z", re.IGNORECASE)
_ANYWHERE = re.compile(_SPECIAL, re.IGNORECASE)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]|(?<!\\S)\ufffd+(?!\\S)"
)
_FENCE = re.compile(r"^\s{0,3}(?:```|~~~)[\w+-]*\s*$|^```[ \t]?|```\s*\Z", re.MULTILINE)
_HEADING = re.compile(r"^\s{0,3}(?:#{1,6}\s+\S.{0,99}|(?:\*\*|__)[^*_\n.?]{1,80}(?:\*\*|__):?)\s*$")
_BOLD = re.compile(r"(\*\*|__)(?=\S)([^\n]+?)(?<=\S)\1")
_WRITING = (
    r"(?=[^\n]*\b(?:descriptions?|conversations?|dialogues?|questions?|answers?|q&a|responses?|"
    r"reply|replies|output|captions?|images?|pictures?|photos?|requests?|versions?|examples?)\b)"
)
"""What a preamble speaks of."""
_GREETING = (
    r"(?:(?:sure(?: thing)?|certainly|of course|absolutely|definitely|great|okay|ok|alright|"
    r"understood|got it|no problem|happy to help|gladly|as requested)\s*[.!:,]+\s*)"
)
_OFFER = (
    rf"(?:{_WRITING}(?:here(?:['’]s|\s+is|\s+are|\s+you\s+go)|below\s+(?:is|are)|"
    r"the\s+following\s+(?:is|are)|this\s+is\s+an?\s+(?:detailed\s+)?(?:description|conversation)|"
    r"i(?:['’]d\s+be|\s+would\s+be|['’]m|\s+am)\s+(?:happy|glad)\s+to|"
    r"(?:let\s+me|i(?:['’]ll|\s+will|\s+can))\s+(?:describe|write|give|provide|create|generate))"
    r"[^\n:：]{0,200}(?:[:：][*_ \t]*|[.!]?(?=\s*\n)))"
)
_TITLE = rf"(?:{_WRITING}[^\n.:?!]{{1,60}}[:：][ \t]*(?=\n))"
_CAPTION = (
    r"(?:(?:the\s+|a\s+)?(?:(?:image|picture|photo|scene|detailed|full|long)\s+)*"
    r"(?:description|caption|conversation|dialogue|output)\s*[:：]\s*)"
)
_PREAMBLE = re.compile(
    rf"^\s*(?:{_GREETING}?{_OFFER}\s*{_CAPTION}?|{_GREETING}{_CAPTION}?|{_CAPTION}|{_TITLE})",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\n\s*(?:(?:i\s+)?hope\s+(?:this|that)\s+(?:helps|meets|is|works)|(?:please\s+)?(?:let\s+me\s+"
    r"know|feel\s+free\s+to)|would\s+you\s+like\s+(?:me|to)|if\s+you(?:['’]d\s+like|\s+would\s+like|"
    r"\s+have\s+(?:any|more)|\s+need\s+(?:any|more|me)|\s+want\s+me)|is\s+there\s+anything\s+else|"
    r"\(?note:|end\s+of\s+(?:the\s+)?(?:conversation|description))[^\n]*\Z",
    re.IGNORECASE,
)
_ALOUD = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|alright|hmm+|so|well|first|now)\b[\s,.…]*)*(?:"
    r"let(?:['’]s|\s+me|\s+us)\s+(?:think|see|start|begin|look|try|break|analy[sz]e|figure|write|"
    r"create)|the\s+user\s+(?:wants|asks|asked|is\s+asking|has|gave|provided|needs)|"
    r"(?:i|we)\s+(?:need|have|must|should|want|am\s+asked|are\s+asked|['’]m\s+asked)\s+(?:to\s+)?"
    r"(?:write|create|generate|describe|answer|produce|come\s+up|make|provide|respond))\b",
    re.IGNORECASE,
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
        ("special tokens", lambda said: _TRAILING.sub("", _LEADING.sub("", said))),
        ("code fences", lambda said: _FENCE.sub("", said)),
        ("preambles", _without_preamble),
        ("headings", _without_headings),
        ("preambles", _without_preamble),
        ("closing remarks", lambda said: _REMARK.sub("", said)),
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
    if _OPENS.search(text):
        return (finding("unclosed thought", text, "it begins to think and never answers"),)
    special = _ANYWHERE.search(text)
    if special:
        return (finding("special token", text, f"{special.group()!r} in the middle of it"),)
    aloud = _ALOUD.match(text)
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
    parts = _FINAL.split(text)
    text = parts[-1]
    for _ in range(_DEEPEST_THOUGHT):
        text = _THOUGHT.sub("", text)
    closed = list(_CLOSES.finditer(text))
    return text[closed[-1].end() :] if closed else text


def _without_preamble(text: str) -> str:
    if label_of(text.partition("\n")[0]):
        return text
    rest = _PREAMBLE.sub("", text, count=1).lstrip()
    return rest[:1].upper() + rest[1:] if rest != text else text


def _without_headings(text: str) -> str:
    lines = text.split("\n")
    kept = [line for line in lines if label_of(line) or not _HEADING.match(line)]
    return "\n".join(kept) if len(kept) < len(lines) else text


def _without_bold(text: str) -> str:
    return "\n".join(
        line if label_of(line) or bare_question(line) else _BOLD.sub(r"\2", line)
        for line in text.split("\n")
    )


def finding(reason: str, text: str, detail: str) -> Finding:
    """Return a finding about a text as a whole."""
    return Finding(reason=reason, sentence=text.strip()[:300], detail=detail)
