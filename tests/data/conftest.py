"""Real tokenizers, trained here on a few lines: one of each family that language models use."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tokenizers import (
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
    "The picture shows two cats, one striped and one smooth, on a wooden table.",
    "How many apples are there? There are three apples on the left of the bottle.",
    "No, there is no banana in the picture. It's 10:30, and the café is open!",
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
