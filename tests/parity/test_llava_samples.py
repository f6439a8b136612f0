"""Prompts and samples hold against LLaVA's own: ids and labels, with its own kind of tokenizer.

The rows were made by LLaVA's own code (`../shared/data/vectors`), the tokenizer is SentencePiece's,
read with `legacy` true and false.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, LlamaForCausalLM

import laterna
from laterna.data.chat import UnusableError, load_template
from laterna.data.masking import check_record, tokenize_prompt
from laterna.data.preparation.tokens import SampleTokenizer, runs_of
from laterna.model.exporters.gguf_text import prefixes_space, scores
from laterna.model.language.tokenizer import read_tokenizer
from laterna.model.vlm import VisionLanguageModel
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Sample, Turn
from laterna.records import IMAGE_TOKEN_INDEX as IMAGE

from ..tiny import llama_config

VECTORS = Path(__file__).parents[3] / "shared/data/vectors/llava_samples.jsonl"
IGNORED = -100
ROLES = {"human": "user", "gpt": "assistant"}
Row = dict[str, Any]
SPACES = [
    "a  b", "   a", "a   ", "a\n\n b", "  ", "", "a    b     c", "<image>  x", "\n", "  \n x",
    " a", "x  \n  y", "日本 é", "\t a", "1  2 3", "\n\n\n" + " " * 40 + "end" + " " * 17,
]  # fmt: skip
PIECES_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As llava-hf's folders have it: pieces, images first, no BOS and no end of turn."""


def model_file() -> Path | None:
    """SentencePiece's file in mistral-common, found without importing that package."""
    spec = find_spec("mistral_common")
    found = Path(spec.origin).parent / "data/tokenizer.model.v1" if spec and spec.origin else None
    return found if found and found.is_file() else None


pytestmark = [
    pytest.mark.skipif(not VECTORS.is_file(), reason="needs ../shared/data/vectors"),
    pytest.mark.skipif(model_file() is None, reason="needs `pip install mistral-common`"),
    pytest.mark.skipif(find_spec("sentencepiece") is None, reason="needs sentencepiece"),
]


def write_tokenizer(folder: Path, *, legacy: bool) -> Path:
    """A folder with `tokenizer.model` alone, as original LLaVA's have it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model_file()
    assert model is not None
    shutil.copy(model, folder / "tokenizer.model")
    said = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return {
        legacy: read_tokenizer(str(write_tokenizer(folder / str(legacy), legacy=legacy)))
        for legacy in (True, False)
    }


@cache
def rows() -> list[Row]:
    return [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]


def turns_of(row: Row) -> list[Turn]:
    own = row["system"] == "the template's own" or row["template"] == "plain"
    turns = [] if own else [Turn(role="system", text=row["system"])]
    for said in row["conversations"]:
        role = ROLES[said["from"]]
        turns.append(Turn(role=role, text=said["value"], loss=role == "assistant"))  # type: ignore[arg-type]
    return turns


def record_of(row: Row) -> InstructionRecord:
    turns = turns_of(row)
    images = sum(turn.text.count(DEFAULT_IMAGE_TOKEN) for turn in turns)
    return InstructionRecord(id=row["case"], images=("a.jpg",) * images, turns=tuple(turns))


def labels(sample: Sample) -> list[int]:
    pairs = zip(sample.input_ids, sample.targets, strict=True)
    return [token if wanted else IGNORED for token, wanted in pairs]


def misfits(tokenizers: dict[bool, Any]) -> Iterator[str]:
    """Yield what differs from LLaVA's own, by row."""
    for row in rows():
        if row["legacy"] not in tokenizers:
            continue
        tokenizer = tokenizers[row["legacy"]]
        name = f"{row['template']} {row['case']} {row['legacy']} {row['system'][:8]!r}"
        first = load_template(row["template"], tokenizer, "first")
        sample = check_record(record_of(row), tokenizer, first)
        if not isinstance(sample, Sample):
            yield f"{name}: {sample}"
            continue
        if list(sample.input_ids) != row["train_input_ids"]:
            yield f"{name}: ids {list(sample.input_ids)} {row['train_input_ids']}"
        elif not row["all_masked_by_llava"] and labels(sample) != row["train_labels"]:
            yield f"{name}: labels"
        if "prompt_ids" in row:
            keep = load_template(row["template"], tokenizer)
            if tokenize_prompt(turns_of(row)[:-1], tokenizer, keep) != row["prompt_ids"]:
                yield f"{name}: prompt"


def test_ids_and_labels_are_llavas(llama: dict[bool, Any]) -> None:
    assert not list(misfits(llama))


def test_many_at_once_come_to_the_same(llama: dict[bool, Any]) -> None:
    found = 0
    for legacy, name in product((True, False), ("vicuna_v1", "llama_2", "plain")):
        own = [row for row in rows() if (row["legacy"], row["template"]) == (legacy, name)]
        template = load_template(name, llama[legacy], "first")
        together = SampleTokenizer(llama[legacy], template).tokenize(
            [record_of(row) for row in own] * 2
        )
        for row, one in zip(own * 2, together, strict=True):
            assert not isinstance(one, UnusableError), (row["case"], one)
            assert list(one.input_ids) == row["train_input_ids"]
            if not row["all_masked_by_llava"]:
                assert list(one.runs) == runs_of([label >= 0 for label in row["train_labels"]])
            found += 1
    assert found == 2 * len(rows())


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def imported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path
) -> tuple[bool, VisionLanguageModel, Path]:
    """An original LLaVA folder with `tokenizer.model`, imported, and exported to Hugging Face."""
    folder = tmp_path_factory.mktemp("original")
    write_tokenizer(folder, legacy=request.param)
    config = llama_config(32_000, 16, 16, layers=1, heads=2, max_position_embeddings=512)
    said = config.to_dict() | {
        "model_type": "llava",
        "mm_vision_tower": str(tiny_models / "vision"),
        "mm_hidden_size": 24,
        "mm_projector_type": "linear",
        "image_aspect_ratio": "pad",
    }
    (folder / "config.json").write_text(json.dumps(said))
    torch.manual_seed(0)
    weights = LlamaForCausalLM(config).state_dict()
    weights |= {
        "model.mm_projector.weight": torch.randn(16, 24),
        "model.mm_projector.bias": torch.zeros(16),
    }
    save_file({name: weight.clone() for name, weight in weights.items()},
              folder / "model.safetensors")  # fmt: skip
    assistant = laterna.load(folder)
    return request.param, assistant.model, assistant.export(folder / "hf", to="hf")


def test_exported_and_read_again_the_tokens_are_llavas(
    imported: tuple[bool, VisionLanguageModel, Path], tmp_path: Path
) -> None:
    legacy, assistant, folder = imported
    again = laterna.load(folder)
    saved = laterna.load(again.save(tmp_path / "ours"))
    for one in (assistant, again.model, saved.model):
        assert not list(misfits({legacy: one.tokenizer}))
        for row in rows():
            if row["legacy"] == legacy and row["template"] == "vicuna_v1":
                ids = tokenize_prompt(turns_of(row)[:-1], one.tokenizer, one.template)
                assert ids == row["prompt_ids"]


def test_the_exported_processor_asks_with_llavas_tokens(
    imported: tuple[bool, VisionLanguageModel, Path],
) -> None:
    legacy, _, folder = imported
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    asked = 0
    for row in rows():
        if row["legacy"] != legacy or row["template"] != "vicuna_v1":
            continue
        messages = [{"role": turn.role, "content": turn.text} for turn in turns_of(row)[:-1]]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        ids = processor.tokenizer(text).input_ids
        mark = processor.image_token_id
        found = [IMAGE if token == mark else token for token in ids]
        assert found == row["prompt_ids"], (row["case"], row["system"])
        asked += 1
    assert asked > 20


def test_a_llava_hf_folder_gets_its_bos_from_the_tokenizer(
    imported: tuple[bool, VisionLanguageModel, Path], tmp_path: Path
) -> None:
    """Its template writes none; the processor's tokenizer puts it before every text."""
    _, assistant, exported = imported
    folder = tmp_path / "published"
    shutil.copytree(exported, folder)
    (folder / "chat_template.jinja").write_text(PIECES_TEMPLATE)
    again = laterna.load(folder).model
    turns = [Turn(role="user", text="<image>\nWhat is it?")]
    ids = tokenize_prompt(turns, again.tokenizer, again.template)
    text = "USER: <image>\nWhat is it? ASSISTANT:"
    before, behind = (assistant.tokenizer(piece).input_ids for piece in text.split("<image>"))
    assert ids == [*before, IMAGE, *behind[1:]]
    assert ids[0] == again.tokenizer.bos_token_id


def test_texts_are_cut_as_sentencepiece_cuts_them(llama: dict[bool, Any]) -> None:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(model_file()))
    for text in SPACES:
        for tokenizer in llama.values():
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert ids == processor.encode(text), text
            assert tokenizer.encode(text)[:1] == [1]


def test_llama_cpp_gets_scores_and_the_space_that_it_can_hold(
    imported: tuple[bool, VisionLanguageModel, Path],
) -> None:
    legacy, assistant, _ = imported
    state = json.loads(assistant.tokenizer.backend_tokenizer.to_str())
    found = scores(state, 32_000)
    place = assistant.tokenizer.convert_tokens_to_ids
    assert found[place("▁t")] > found[place("▁b")] > found[place("▁▁▁▁")]
    if legacy:
        assert prefixes_space(state, begins_with_bos=True)
    else:
        with pytest.warns(UserWarning, match="from the second question on"):
            assert prefixes_space(state, begins_with_bos=True)


@pytest.mark.parametrize(
    ("said", "rule", "legacy"),
    [
        (None, "first", False),
        (None, "always", True),
        (False, "always", False),
        (True, "first", True),
    ],
)
def test_a_folder_with_tokenizer_json_alone_is_read_by_what_it_says(
    said: bool | None, rule: str, legacy: bool, llama: dict[bool, Any], tmp_path: Path
) -> None:
    """As llava-hf's have it: `legacy` of tokenizer_config.json, else the rule of tokenizer.json."""
    write_tokenizer(tmp_path, legacy=legacy)
    (tmp_path / "tokenizer.model").unlink()
    state = json.loads(llama[True].backend_tokenizer.to_str()) | {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": rule,
            "split": False,
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "LlamaTokenizerFast", "legacy": said}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    assert not list(misfits({legacy: read_tokenizer(str(tmp_path))}))
