"""Tokenizers of the kinds that language models use, of a real vocabulary's size, trained here.

The text is the source of Python's standard library, which lies on every machine that runs this:
English, but full of names and signs, so prose is cut finer than by a published vocabulary.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TOKENS = 32_000
FILES = 400
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's and Qwen 2's expression, but for how many digits are a word."""


def text() -> Iterator[str]:
    """Yield the lines to train on."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py"))[:FILES]:
        yield from path.read_text(encoding="utf-8", errors="ignore").splitlines()


def llama_2() -> Tokenizer:
    """SentencePiece's kind of BPE: nothing cuts; spaces are characters; bytes for the unknown."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(text(), trainers.BpeTrainer(vocab_size=TOKENS - 259))
    model = json.loads(trained.to_str())["model"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    vocabulary = dict.fromkeys(["<unk>", "<s>", "</s>", *bytes_, *model["vocab"]])
    merges = [tuple(merge) for merge in model["merges"]]
    places = {token: place for place, token in enumerate(vocabulary)}
    made = Tokenizer(models.BPE(places, merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    first = decoders.Strip(" ", 1, 0)
    spaces = decoders.Replace("▁", " ")
    made.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), first])
    return made


def byte_level(digits: str) -> Tokenizer:
    """Byte-level BPE that cuts as Llama 3's and Qwen 2's do."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS % digits), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, initial_alphabet=alphabet)
    made.train_from_iterator(text(), trainer)
    return made


def t5() -> Tokenizer:
    """Unigram between spaces, as T5's but for its table of characters."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        chain(text(), ["\n"]),  # a line's end is no space here, and must not be unknown
        trainers.UnigramTrainer(vocab_size=TOKENS, special_tokens=["<unk>"], unk_token="<unk>"),
    )
    return made


def bert() -> Tokenizer:
    """WordPiece in lower case."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=TOKENS, special_tokens=["<unk>"])
    made.train_from_iterator(text(), trainer)
    return made


KINDS = {
    "llama-2": llama_2,
    "llama-3": lambda: byte_level("{1,3}"),
    "qwen-2": lambda: byte_level(""),
    "t5": t5,
    "bert": bert,
}


def make(kind: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer of a kind; all have `<s>`, `</s>` and `<unk>`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
