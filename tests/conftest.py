"""Set before anything imports torch: threads that soon sleep while they wait, and no network.

Every test is of one kind, which is seen from what it imports: `unit` needs neither torch nor
transformers, `gpu` lies in tests/gpu, and the others are `model`. The fixtures make an assistant
of real classes in its smallest form, from real folders on disk.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from import_closure import closure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from laterna.model.vlm import VisionLanguageModel
    from laterna.recipe import Recipe
    from laterna.records import Sample

SENTENCES = (
    "A red bicycle stands beside two small apples on the table.",
    "What colour is the bicycle? How many apples are there in the image?",
    "The bicycle is red, and there are two apples. Yes. No. One, three, four.",
    "Is there a banana to the left of the striped cup? There is no banana.",
    "Is it green, or blue? It is green. It is blue.",
    "Describe what you see. A bright scene with a teddy bear and a clock.",
)
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{% if turn['role'] == 'user' %}{{ 'USER: ' + turn['content'] + ' ' }}"
    "{% elif turn['role'] == 'assistant' %}{{ 'ASSISTANT: ' + turn['content'] + eos_token }}"
    "{% else %}{{ turn['content'] + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
HERE = Path(__file__).parent
HEAVY = {"torch", "transformers"}


@cache
def is_light(file: Path) -> bool:
    """Whether neither a test file nor a conftest between it and this one needs torch."""
    between = [folder / "conftest.py" for folder in file.parents if HERE in folder.parents]
    read = [file, *(path for path in between if path.is_file())]
    return not any(closure(path).foreign & HEAVY for path in read)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what `-m unit` leaves out."""
    unit_alone = config.getoption("markexpr") == "unit"
    return (
        True
        if unit_alone and collection_path.suffix == ".py" and not is_light(collection_path)
        else None
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its kind."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if HERE / "gpu" in item.path.parents:
            item.add_marker("gpu")
            if not has_gpu():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        elif is_light(item.path) and "tiny_tokenizer" not in fixtures:
            item.add_marker("unit")
        else:
            item.add_marker("model")


@cache
def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a unit test that brings torch in all the same."""
    before = HEAVY & sys.modules.keys()
    yield
    brought = HEAVY & sys.modules.keys() - before
    if brought and item.get_closest_marker("unit"):
        pytest.fail(f"a unit test imported {', '.join(sorted(brought))}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered of files is not written into the user's cache."""
    os.environ["LATERNA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def _damage(path: Path, how: str) -> None:
    """Turn the middle bit of a file over, take its last byte, or remove it."""
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if how == "cut" else content)


@pytest.fixture(scope="session")
def damage() -> Callable[[Path, str], None]:
    """Damages a file: `flip` turns a bit over, `cut` takes the last byte, `gone` removes it."""
    return _damage


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of at most 448 tokens with a Vicuna-like chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """Folders `vision` (CLIP, 3 layers, 4 patches) and `language` (Llama, 2 layers), random."""
    import torch
    from transformers import LlamaForCausalLM

    from .tiny import clip_config, llama_config, save_clip

    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_clip(folder / "vision", clip_config())
        language = LlamaForCausalLM(
            llama_config(
                len(tiny_tokenizer),
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.2,  # so that random answers differ with what they are asked
                bos_token_id=tiny_tokenizer.bos_token_id,
                eos_token_id=tiny_tokenizer.eos_token_id,
                pad_token_id=tiny_tokenizer.pad_token_id,
            )
        )
    language.save_pretrained(folder / "language")
    tiny_tokenizer.save_pretrained(folder / "language")
    return folder


@pytest.fixture
def tiny_recipe(tiny_models: Path, tmp_path: Path) -> Recipe:
    """A recipe over the tiny models; its data are `records.json` and `images/` in `tmp_path`."""
    from laterna.recipe import (
        LanguageSettings,
        PartSettings,
        Recipe,
        StageSettings,
        VisionSettings,
    )

    def stage(**parts: PartSettings) -> StageSettings:
        return StageSettings(
            data=str(tmp_path / "records.json"),
            images=str(tmp_path / "images"),
            global_batch_size=4,
            **parts,  # type: ignore[arg-type]
        )

    trained = PartSettings(mode="full", lr=1e-2)
    return Recipe(
        name="tiny",
        seed=3,
        prepared=str(tmp_path / "prepared"),
        vision=VisionSettings(source=str(tiny_models / "vision")),
        language=LanguageSettings(source=str(tiny_models / "language")),
        align=stage(connector=trained),
        instruct=stage(connector=trained, language=PartSettings(mode="full", lr=5e-3)),
    )


@pytest.fixture
def tiny_assistant(tiny_recipe: Recipe) -> VisionLanguageModel:
    """An untrained assistant of the tiny models: 4 tokens an image, widths 24 and 32."""
    from laterna.model.build import build_from_recipe

    return build_from_recipe(tiny_recipe)


@pytest.fixture
def answered(tiny_assistant: VisionLanguageModel) -> Callable[[str, str], Sample]:
    """Makes a sample of one question about an image of 32 by 32, by its name and answer."""
    from msgspec.structs import replace

    from laterna.data.masking import tokenize
    from laterna.records import InstructionRecord, Turn

    def make(name: str, answer: str) -> Sample:
        turns = (
            Turn(role="user", text="<image>\nWhat is it?"),
            Turn(role="assistant", text=answer, loss=True),
        )
        record = InstructionRecord(id=name, images=(name,), turns=turns)
        made = tokenize(record, tiny_assistant.tokenizer, tiny_assistant.template)
        return replace(made, image_tokens=(tiny_assistant.image_tokens(32, 32),))

    return make
