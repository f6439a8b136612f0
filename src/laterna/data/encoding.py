"""A tokenizer as chats are read by it: the pieces between images one by one, as LLaVA does.

Each piece is a text of its own to the tokenizer, with the space that some put before a text. So is
what stands behind a leading BOS, where the tokenizer writes one itself: LLaVA tokenizes the text
behind it. Other special tokens stand inside a piece.

Some tokenizers look ahead: by GPT-2's rule two line breaks are one word at the end of a text, and
two before a letter. Some join white space with more of it. At serving the prompt ends where the
answer begins, so in training a piece is cut in two there, if that makes a difference.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.processors import TemplateProcessing

from laterna.errors import LaternaError
from laterna.records import IMAGE_TOKEN_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_SENTINEL = "\U000f1a72"
"""Stands for an image in rendered text; a private character that no words may hold."""
_ANCHOR = "a"
"""A word to decode others behind, since a text's first space is the tokenizer's own to some."""
_FEW = 8
"""Borders that are looked up one by one; of more, the tokens' places are listed once."""

Spans = Sequence[tuple[int, int]]


class _Part(NamedTuple):
    """A piece of a text, or what stands between two: an image, or the BOS."""

    begin: int
    """Its first character in the text."""
    token: int
    """The number of its first token."""
    encoding: Encoding | None


class Encoded:
    """The ids of a text, and where its characters are among them."""

    def __init__(self, ids: list[int], parts: list[_Part], length: int) -> None:
        self.ids = ids
        self._parts = parts
        self._begins = [part.begin for part in parts]
        self._length = length
        self._listed: dict[int, tuple[Sequence[int], Sequence[int]]] = {}

    def runs(self, spans: Spans) -> list[int] | None:
        """Return where the tokens of spans begin and end, in turn; touching ones are one run.

        None: a token reaches over a border.
        """
        borders = [border for span in join_spans(spans) for border in span]
        places = [self._place(border, many=len(borders) > _FEW) for border in borders]
        runs: list[int] = []
        for first, end in zip(places[::2], places[1::2], strict=True):
            if first is None or end is None:
                return None
            runs += (first, end) if first < end else ()
        return runs

    def _place(self, border: int, *, many: bool) -> int | None:
        """Return the number of the first token behind a border; None where one reaches over it."""
        if border >= self._length:
            return len(self.ids)
        number = bisect_right(self._begins, border) - 1
        begin, token, encoding = self._parts[number]
        if encoding is None:
            return token if begin == border else None
        at = border - begin
        found = None if many else encoding.char_to_token(at)
        if found is not None:
            whole = encoding.token_to_chars(found)
            return token + found if whole is not None and whole[0] >= at else None
        if number not in self._listed:  # of many, or a character that the tokenizer drops
            offsets = encoding.offsets
            self._listed[number] = [one for one, _ in offsets], [one for _, one in offsets]
        starts, ends = self._listed[number]
        found = bisect_left(starts, at)
        return None if found and ends[found - 1] > at else token + found


class Encoder:
    """One tokenizer. The user's own stays as it is."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise LaternaError for a tokenizer that reports no offsets."""
        if not tokenizer.is_fast:
            raise LaternaError(
                f"the tokenizer of {tokenizer.name_or_path or 'this model'} reports no character "
                "offsets, which masking needs; use one with a tokenizer.json"
            )
        self.size = len(tokenizer)
        own = tokenizer.backend_tokenizer
        before = own.encode("").ids[:1]
        adds = bool(before) and before[0] == tokenizer.bos_token_id
        self._bos = (str(tokenizer.bos_token), before) if adds else ("", [])
        self._backend = Tokenizer.from_str(own.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        # Special tokens stand in the rendered text, so a post-processor has nothing to add; but
        # byte-level ones cut spaces from the offsets, which would leave a lone space no span.
        self._backend.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
        self._unknown = str(tokenizer.unk_token) if tokenizer.unk_token else ""
        decoder, normalizer = self._backend.decoder, self._backend.normalizer
        self._writes_all = normalizer is None and isinstance(decoder, ByteLevel)
        self._anchor = self._ids(_ANCHOR)
        self._anchored = self._backend.decode(self._anchor, skip_special_tokens=False)
        (twice,) = self.decode([self._anchor])
        self._opening = twice.removesuffix(_ANCHOR)
        """What is decoded before a text that no text has: a space, or nothing."""
        self.can_part = not self._opening
        """Whether a piece may be cut in two, which gives its second half no space of its own."""

    def encode(self, texts: Sequence[str], starts: Sequence[Sequence[int]] = ()) -> list[Encoded]:
        """Return the ids of texts, `IMAGE_TOKEN_INDEX` for each sentinel.

        `starts` are the characters at which the answers of each text begin: what stands before
        one has the tokens of a prompt that ends there.
        """
        cut = [self._cut(text) for text in texts]
        pieces = [piece for _, own in cut for piece in own]
        encodings = iter(self._backend.encode_batch(pieces, add_special_tokens=False))
        begun = iter(starts if self.can_part and starts else [()] * len(texts))
        return [
            self._joined(first, [(piece, next(encodings)) for piece in own], next(begun))
            for first, own in cut
        ]

    def decode(self, runs: Sequence[Sequence[int]]) -> list[str]:
        """Return what runs of tokens say behind other words."""
        anchored = [[*self._anchor, *run] for run in runs]
        said = self._backend.decode_batch(anchored, skip_special_tokens=False)
        return [text.removeprefix(self._anchored) for text in said]

    def say(self, pairs: Sequence[tuple[Sequence[int], str]]) -> list[bool]:
        """Say of tokens and a text, many at once, whether the tokens decode to the text.

        White space counts. A tokenizer that cannot write some text back (one that lowers case,
        say) is held to what it makes of the text, unless that has unknown tokens.
        """
        said = self.decode([ids for ids, _ in pairs])
        texts = [text for _, text in pairs]
        good = [self._is(one, text) for one, text in zip(said, texts, strict=True)]
        # Byte-level, it writes back all but bytes that it lacks, which it leaves out unsaid.
        left = [] if self._writes_all else [at for at, one in enumerate(good) if not one]
        written = self._backend.encode_batch([texts[at] for at in left], add_special_tokens=False)
        for at, text in zip(left, self.decode([one.ids for one in written]), strict=True):
            unknown = self._unknown and self._unknown in said[at]
            good[at] = said[at].strip() == text.strip() and not unknown
        return good

    def _is(self, said: str, text: str) -> bool:
        return said == text or said == self._opening + text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _cut(self, text: str) -> tuple[bool, list[str]]:
        """Say whether a text begins with the BOS that is the tokenizer's own; return its pieces."""
        bos = self._bos[0]
        begins = bool(bos) and text.startswith(bos)
        return begins, (text[len(bos) :] if begins else text).split(IMAGE_SENTINEL)

    def _parted(
        self, piece: str, encoding: Encoding, starts: Sequence[int]
    ) -> list[tuple[str, Encoding]]:
        """Cut a piece where answers begin, if the tokens at one of them hang on what follows.

        Where a token joins the template's white space and a word, nothing is cut: every record has
        it so, and `Encoded.runs` refuses them.
        """
        if not any(self._hangs_on_more(piece, encoding, start) for start in starts):
            return [(piece, encoding)]
        cuts = [at for at in starts if piece[at].isspace() or not _reaches_over(encoding, at)]
        parts = [piece[start:end] for start, end in pairwise([0, *cuts, len(piece)])]
        encodings = self._backend.encode_batch(parts, add_special_tokens=False)
        return list(zip(parts, encodings, strict=True))

    def _hangs_on_more(self, piece: str, encoding: Encoding, at: int) -> bool:
        """Say whether white space around a place has other tokens than before a text's end."""
        if _reaches_over(encoding, at):
            return piece[at].isspace()
        blank = len(piece[:at].rstrip())
        if at - blank < 2:
            return False
        first, end = encoding.char_to_token(blank), encoding.char_to_token(at)
        if first is None or end is None:
            return False
        before = encoding.token_to_chars(max(first - 1, 0))
        begin = before[0] if before else blank
        alone = self._backend.encode(piece[begin:at], add_special_tokens=False)
        own = alone.char_to_token(blank - begin)
        return own is None or alone.ids[own:] != encoding.ids[first:end]

    def _joined(
        self, begins: bool, pieces: list[tuple[str, Encoding]], starts: Sequence[int]
    ) -> Encoded:
        ids, parts, at = list[int](), list[_Part](), 0
        if begins:
            parts.append(_Part(0, 0, None))
            ids += self._bos[1]
            at = len(self._bos[0])
        for number, (piece, encoding) in enumerate(pieces):
            if number:
                parts.append(_Part(at, len(ids), None))
                ids.append(IMAGE_TOKEN_INDEX)
                at += 1
            own = [start - at for start in starts if at < start < at + len(piece)]
            for text, encoded in self._parted(piece, encoding, own) if piece else ():
                parts.append(_Part(at, len(ids), encoded))
                ids += encoded.ids
                at += len(text)
        return Encoded(ids, parts, at)


def _reaches_over(encoding: Encoding, at: int) -> bool:
    token = encoding.char_to_token(at)
    span = None if token is None else encoding.token_to_chars(token)
    return span is not None and span[0] < at


def join_spans(spans: Spans) -> list[tuple[int, int]]:
    """Join spans that touch, whose tokens are one run."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


_encoders: WeakKeyDictionary[PreTrainedTokenizerBase, Encoder] = WeakKeyDictionary()


def encoder_of(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Return the encoder of a tokenizer, made once, and again when the tokenizer has grown.

    Raises LaternaError for a tokenizer that reports no offsets.
    """
    known = _encoders.get(tokenizer)
    if known is None or known.size != len(tokenizer):
        known = _encoders[tokenizer] = Encoder(tokenizer)
    return known
