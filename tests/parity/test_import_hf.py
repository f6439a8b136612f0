"""llava-hf's checkpoints, of both key layouts, say here what they say there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPImageProcessorPil, LlavaForConditionalGeneration

import laterna
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant, load
from laterna.model.vlm import VisionLanguageModel

Insist = Callable[..., None]
TEXT = "<s>USER: <image>\nWhat is it? ASSISTANT: A red bicycle"
NOISE = np.random.default_rng(5).integers(0, 255, (40, 28, 3), dtype=np.uint8)
IMAGE = Image.fromarray(NOISE)
# As llava-hf's folders carry it: pieces, images first.
PIECES_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def test_what_was_exported_comes_back(
    either: VisionLanguageModel, tmp_path: Path, require_equality: Insist
) -> None:
    again = laterna.load(Assistant(either).export(tmp_path / "hf", to="hf"))
    require_equality(either, again)
    assert again.model.recipe is not None
    assert again.model.recipe.connector == either.recipe.connector  # type: ignore[union-attr]
    assert again.model.prepare.fit == "pad"
    require_equality(either, laterna.load(again.save(tmp_path / "ours")))


def classic(folder: Path) -> None:
    """Rename a fresh folder's weights to the names that llava-hf's published folders have."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    assert {name.split(".")[0] for name in weights} == {
        "language_model",
        "multi_modal_projector",
        "vision_tower",
    }
    assert not any(".vision_model." in name for name in weights)
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model."): weight
        for name, weight in weights.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})


def test_the_classic_names_are_read(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, require_equality: Insist
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "hf", to="hf")
    classic(folder)
    require_equality(tiny_assistant, laterna.load(folder))


def as_published(folder: Path) -> None:
    """Give a folder the processor that llava-hf's published ones have: crop, pieces, JSON."""
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PIECES_TEMPLATE}))
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "crop_size": {"height": 28, "width": 28},
                "size": {"shortest_edge": 28},
                "do_center_crop": True,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
                "resample": 3,
                "rescale_factor": 1 / 255,
            }
        )
    )


def test_a_published_folder_is_padded_where_asked_and_asked_as_it_says(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "hf", to="hf")
    classic(folder)
    as_published(folder)
    again = load(folder, fit="pad")
    assert torch.equal(again.model.prepare([IMAGE]), tiny_assistant.prepare([IMAGE]))
    assert torch.equal(again.logits([IMAGE], TEXT)[:, :100],
                       tiny_assistant.logits([IMAGE], TEXT)[:, :100])  # fmt: skip
    asked = "USER: <image>\nWhat is it? ASSISTANT:"
    turns = [{"role": "user", "content": "<image>\nWhat is it?"}]
    rendered = again.model.tokenizer.apply_chat_template(
        turns, chat_template=again.model.template, tokenize=False, add_generation_prompt=True
    )
    assert rendered == asked
    cropped = load(folder)
    assert cropped.model.prepare.fit == "crop"
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    theirs = processor(IMAGE, return_tensors="pt")["pixel_values"]
    assert torch.equal(cropped.model.prepare([IMAGE]), theirs)
    vicuna = load(folder, fit="pad", template="vicuna_v1")
    assert vicuna.model.template.startswith("{#- Vicuna")


def test_a_foreign_model_says_the_same_here(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "hf", to="hf")
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(8)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=[IMAGE], text=TEXT, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        theirs = model.eval()(**inputs).logits[0]
    ours = laterna.load(folder).logits([IMAGE], TEXT)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vision_feature_layer": [-2, -1]}, "features of several layers"),
        ({"projector_hidden_act": "relu"}, "its projector has 'relu'"),
        # transformers would take its own defaults for them: 7 billion random weights
        ({"text_config": None}, "its config.json has no `text_config`"),
        ({"text_config": {}}, "its config.json has no `text_config`"),
        ({"vision_config": None}, "its config.json has no `vision_config`"),
    ],
)
def test_what_laterna_lacks_is_refused(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "hf", to="hf")
    edit(folder / "config.json", **change)
    with pytest.raises(LaternaError, match=reason):
        load(folder)


def edit(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    found.update(changes)
    path.write_text(json.dumps(found))


def test_a_folder_that_is_none_of_them_is_said_to_be_none(
    tiny_models: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        LaternaError, match=r"its config\.json is of type 'llama', which is none that is read"
    ):
        load(tiny_models / "language")
    with pytest.raises(LaternaError, match="not a Laterna checkpoint"):
        load(tmp_path)
    with pytest.raises(LaternaError, match="nowhere/at-all: "):
        load("nowhere/at-all")


def test_names_decide_nothing(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, require_equality: Insist
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "liuhaotian-llava-lora-laterna", to="hf")
    require_equality(tiny_assistant, laterna.load(folder))


def test_a_checkpoint_of_ours_says_all_itself(
    tiny_assistant: VisionLanguageModel, tmp_path: Path, require_equality: Insist
) -> None:
    folder = Assistant(tiny_assistant).save(tmp_path / "ours")
    require_equality(tiny_assistant, laterna.load(folder))
    with pytest.raises(LaternaError, match="already says this"):
        load(folder, fit="pad")


def test_a_pointer_in_the_templates_place_is_named(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    folder = Assistant(tiny_assistant).export(tmp_path / "hf", to="hf")
    (folder / "chat_template.jinja").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LaternaError, match=r"chat_template\.jinja: a pointer of Git LFS"):
        load(folder)
