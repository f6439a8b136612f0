"""English text to words, as NLTK's `word_tokenize` parts lower-case text, without NLTK or its data.

CHAIR and the metrics of captions compare words, so where a full stop belongs to a word matters:
`a red car. a bus.` holds `car`, `dr. smith` holds `dr.`. Sentences end as NLTK's English Punkt
model says of lower-case text, where its other knowledge (which words begin sentences in capitals)
decides nothing but four rare words; words are parted by the rules of its Treebank tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from string import whitespace

TOKENIZER = "NLTK 3.10.4 word_tokenize of lower-case text"
"""What `words` is exact to."""
_ABBREVIATIONS = frozenset(
    word
    for line in files(__package__).joinpath("abbreviations.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
_SPLITS = r"""[)";}\]*:@'({\[‘’“”«»!?]"""
"""Characters that no word holds."""
_RUN = r"-{2,}|\.{2,}|(?:\.\s){2,}\."
_STOP = re.compile(rf"[.?!](?=(?P<after>{_SPLITS}|\s+(?P<next>\S+)))")
"""A mark that may end a sentence, with what follows it."""
_TOKEN = re.compile(
    rf"""{_RUN}|(?=[^("`{{\[:;&#*@)}}\],-])\S+?(?=\s|$|{_SPLITS}|{_RUN}|,(?=$|\s|{_SPLITS}|{_RUN}))|\S"""
)
_CLOSERS = re.compile(r"""["')\]}’”«»]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
_NEVER_FIRST = frozenset(";:,.!?")
Span = tuple[int, int]
"""Where a sentence begins and ends."""
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")

_CHANGES = [
    (re.compile(form), change)
    for form, change in (
        # quotes that open
        ("([«“‘„]|`+)", r" \1 "),
        ('^"', "``"),
        ("``", " `` "),
        (r"""([ (\[{<])("|'')""", r"\1 `` "),
        (r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        # marks; a full stop is parted at the sentence's end alone
        (r"""([^.])(\.)([\])}>"'»”’ ]*+)\s*$""", r"\1 \2 \3 "),
        (r"([:,])(\D)", r" \1 \2"),
        ("([:,])$", r" \1 "),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&\u2012-\u2015?!]", r" \g<0> "),
        ("([^'])' ", r"\1 ' "),
        (r"[*\]\[(){}<>]", r" \g<0> "),
        ("--", " -- "),
    )
]
_ENDINGS = [
    (re.compile(form), change)
    for form, change in (
        ("([»”’])", r" \1 "),
        ("''|\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[smd]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim)(me)\b|\b(gon)(na)\b", r" \1\3\5\7 \2\4\6\8 "),
        (r"\b(got)(ta)\b|\b(lem)(me)\b|\b(more)('n)\b|\b(wan)(na)(?=\s)", r" \1\3\5\7 \2\4\6\8 "),
        (r" ('t)(is|was)\b", r" \1 \2 "),
    )
]


def words(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case."""
    found: list[str] = []
    for sentence in sentences(text.lower()):
        for form, change in _CHANGES:
            sentence = form.sub(change, sentence)
        sentence = f" {sentence} "
        for form, change in _ENDINGS:
            sentence = form.sub(change, sentence)
        found += sentence.split()
    return found


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a lower-case text, closing quotes and brackets with their own.

    What is nothing but marks (`? !`) belongs to the sentence before it.
    """
    spans = _joined(text, [span for span in _spans(text) if span[0] < span[1]])
    moved = 0
    for number, (start, end) in enumerate(spans):
        start, moved = start + moved, 0
        if number + 1 < len(spans):
            after = spans[number + 1]
            if closers := _CLOSERS.match(text, *after):
                end = after[0] + len(closers.group().rstrip())
                moved = closers.end() - after[0]
        if start < end:
            yield text[start:end]


def _joined(text: str, spans: list[Span]) -> list[Span]:
    found: list[Span] = []
    for start, end in spans:
        if found and not text[start:end].strip(".?!"):
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def _spans(text: str) -> Iterator[Span]:
    last = 0
    for start, stop in _stops(text):
        if _holds_an_end(text[start : stop.end()] + stop["after"]):
            yield last, stop.end()
            last = stop.start("next") if stop["next"] else stop.end()
    yield last, len(text.rstrip())


def _stops(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield the marks that may end a sentence, each with where the word before it begins.

    Of marks that share a word (`?!`, `.".`) the last alone may, and none within a run of dots.
    """
    runs = [run.span() for run in re.finditer(_RUN, text)]
    within = {place for start, end in runs for place in range(start, end - 1)}
    before: tuple[int, re.Match[str]] | None = None
    for stop in _STOP.finditer(text):
        if stop.start() in within:
            continue
        word, end = (before[0], before[1].start()) if before else (0, 0)
        blank = max(text.rfind(blank, end, stop.start()) for blank in whitespace)
        start = blank + 1 if blank > end else word  # sic: a blank at the very end is not seen
        if before is not None and end <= start:
            yield before
        before = start, stop
    if before is not None:
        yield before


def _holds_an_end(context: str) -> bool:
    """Tell whether a word of some text ends a sentence, the last one left aside."""
    tokens = [token for line in context.split("\n") for token in _TOKEN.findall(line)]
    return any(_ends(*pair) for pair in pairwise(tokens))


def _ends(token: str, following: str) -> bool:
    """Tell whether a word ends a sentence: a full stop after an abbreviation does not."""
    if token in (".", "?", "!"):
        return True
    word = token.removesuffix(".")
    if word == token or word.endswith("."):
        return False
    if word in _ABBREVIATIONS or word.split("-")[-1] in _ABBREVIATIONS:
        return False
    joined = (len(word) == 1 and word.isalpha()) or _NUMBER.fullmatch(word) is not None
    return not (joined and (following[0].islower() or following in _NEVER_FIRST))
