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

TOKENIZER = "NLTK 3.10.4 word_tokenize of lower-case text"
"""What `words` is exact to."""
_ABBREVIATIONS = frozenset(
    word
    for line in files(__package__).joinpath("abbreviations.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
_STOP = re.compile(r"""(?P<mark>[.?!])(?=\s*(?P<next>\S\S?))(?=[)";}\]*:@'({\[‘’“”«»!?\s])""")
"""A mark that may end a sentence, with what follows it."""
_CLOSERS = re.compile(r"""\s*["')\]}’”«»]+(?=\s|--|$)""")
_LAST_WORD = re.compile(r"""[^\s("`{\[:;&#*@)}\],-][^\s)";}\]*:@'({\[‘’“”«»!?]*$""")
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
    pending, start = "", 0
    for end in (*_ends_of_sentences(text), len(text)):
        if pending and text[start:end].strip().strip(".?!"):
            yield pending
            pending = ""
        pending, start = (pending + text[start:end]).strip(), end
    if pending:
        yield pending


def _ends_of_sentences(text: str) -> Iterator[int]:
    end = 0
    for stop in _STOP.finditer(text):
        if stop.end() > end and _ends(text, stop):
            closers = _CLOSERS.match(text, stop.end())
            end = closers.end() if closers else stop.end()
            yield end


def _ends(text: str, stop: re.Match[str]) -> bool:
    """Tell whether a mark ends a sentence: a full stop after an abbreviation does not."""
    if stop["mark"] != ".":
        return True
    start = max(text.rfind(blank, 0, stop.start()) for blank in " \n\t") + 1
    last = _LAST_WORD.search(text, start, stop.start())
    word = last.group() if last else ""
    if word.endswith(".") or word in _ABBREVIATIONS or word.split("-")[-1] in _ABBREVIATIONS:
        return False
    joined = (len(word) == 1 and word.isalpha()) or _NUMBER.fullmatch(word) is not None
    goes_on = stop["next"][0].islower() or stop["next"][0] in ";:,!?" or stop["next"].strip() == "."
    return not (joined and goes_on)
