"""Real tokenizers, trained here on a few lines: one of each family that language models use."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from laterna.data.chat import SHIPPED_TEMPLATES

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: What is on the table? ASSISTANT: There is a red cup beside the small dog.",
    "The image shows two cats, one striped and one smooth, on a wooden table.",
    "How many apples are there? There are three apples on the left of the bottle.",
    "No, there is no banana in the image. It's 10:30, and the café is open!",
] * 4
ROLES = [
    "[INST] <<SYS>> <</SYS>>\n\n<image>\n [/INST] USER: ASSISTANT: </think>",
    "You are able to understand the visual content, and assist with a variety of tasks.",
] * 4
"""What templates write around answers, for kinds that know no character they were not taught."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
STRIPPING_CHATML = CHATML.replace("message['content']", "message['content'] | trim")


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level BPE, no BOS, spaces cut from the offsets, a ChatML template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _metaspace_model() -> Tokenizer:
    """BPE over U+2581 with byte fallback, `<unk>`, `<s>` and `</s>` as its first tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    words = dict.fromkeys(["<unk>", "<s>", "</s>", *bytes_, *model["vocab"]])
    backend = Tokenizer(
        models.BPE(
            vocab={word: place for place, word in enumerate(words)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def metaspace() -> PreTrainedTokenizerFast:
    """Llama 2's kind: a space before each stretch of words, a BOS, the Vicuna template."""
    backend = _metaspace_model()
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = SHIPPED_TEMPLATES["vicuna_v1"].read_text(encoding="utf-8")
    return tokenizer


def metaspace_without_bos() -> PreTrainedTokenizerFast:
    """Llama's kind since `legacy=False`: a space before the text's first word alone; no BOS."""
    backend = _metaspace_model()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = SHIPPED_TEMPLATES["llama_2"].read_text(encoding="utf-8")
    return tokenizer


def unigram() -> PreTrainedTokenizerFast:
    """T5's kind: Unigram with NFKC, which cannot write every text back, and unknown tokens."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS + ROLES,
        trainers.UnigramTrainer(
            vocab_size=220,
            special_tokens=["<unk>", "</s>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = SHIPPED_TEMPLATES["vicuna_v1"].read_text(encoding="utf-8")
    return tokenizer


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's kind: WordPiece, lower case, no accents, no white space, unknown tokens."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        CORPUS + ROLES,
        trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="[SEP]", unk_token="[UNK]"
    )
    tokenizer.chat_template = SHIPPED_TEMPLATES["vicuna_v1"].read_text(encoding="utf-8")
    return tokenizer


MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "metaspace": metaspace,
    "metaspace_without_bos": metaspace_without_bos,
    "unigram": unigram,
    "word_piece": word_piece,
}


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """All of them by name, made once."""
    return {name: make() for name, make in MAKERS.items()}


Change = Callable[[Tokenizer], None]
_TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _cut_by(expression: str) -> Change:
    def change(backend: Tokenizer) -> None:
        split = pre_tokenizers.Split(Regex(expression), "isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, whole])

    return change


def _qwen_2(backend: Tokenizer) -> None:
    _cut_by(_TIKTOKEN % "")(backend)
    backend.normalizer = normalizers.NFC()


def _smollm(backend: Tokenizer) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, whole])


def _spaces(**how: object) -> Change:
    def change(backend: Tokenizer) -> None:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(**how)

    return change


def _as_it_is(_: Tokenizer) -> None:
    """Change nothing."""


WORD_KINDS: dict[str, tuple[str, Change]] = {
    "gpt2": ("byte_level", _as_it_is),
    "smollm": ("byte_level", _smollm),
    "llama_3": ("byte_level", _cut_by(_TIKTOKEN % "{1,3}")),
    "qwen_2": ("byte_level", _qwen_2),
    "llama_2": ("metaspace", _as_it_is),
    "llama_2 in transformers 5": ("metaspace", _spaces(prepend_scheme="always", split=False)),
    "llama_2 without legacy": ("metaspace", _spaces(prepend_scheme="first", split=False)),
    "no space of its own": ("metaspace", _spaces(prepend_scheme="never", split=False)),
    "split at spaces": ("metaspace", _spaces(prepend_scheme="always", split=True)),
    "t5": ("unigram", _as_it_is),
}
"""Kinds whose words are known: of whose making they are, and what is changed in them."""


@pytest.fixture(scope="session")
def word_kinds(
    tokenizers: dict[str, PreTrainedTokenizerFast],
) -> dict[str, PreTrainedTokenizerFast]:
    """Tokenizers by kind that differ in how they cut a text into words."""
    made = {}
    for name, (base, change) in WORD_KINDS.items():
        like = tokenizers[base]
        backend = Tokenizer.from_str(like.backend_tokenizer.to_str())
        change(backend)
        made[name] = PreTrainedTokenizerFast(tokenizer_object=backend, **like.special_tokens_map)
        made[name].chat_template = like.chat_template
    return made
