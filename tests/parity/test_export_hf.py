"""What is exported to Hugging Face says there, number for number, what it says here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.exporters.hf import export_hf
from laterna.model.language.adapters import add_lora, has_lora
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, LoraSettings, Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Turn

TEXT = "<s>USER: <image>\nWhat colour is it? <image> ASSISTANT: Red"


def noise(count: int = 1, size: tuple[int, int] = (40, 28)) -> list[Image.Image]:
    random = np.random.default_rng(5)
    height, width = size
    return [
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for _ in range(count)
    ]


def exported(assistant: VisionLanguageModel, folder: Path) -> tuple[Any, Any]:
    Assistant(assistant).export(folder, to="hf")
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder, backend="pil")


def require_equality(assistant: VisionLanguageModel, folder: Path) -> None:
    """Compare logits over a text with two images, and greedy answers, with the exported."""
    model, processor = exported(assistant, folder)
    shown = noise(2)
    inputs = processor(images=shown, text=TEXT, add_special_tokens=False, return_tensors="pt")
    ours = assistant.logits(shown, TEXT)
    with torch.no_grad():
        theirs = model(**inputs).logits[0]
    assert theirs.shape[0] == ours.shape[0]
    torch.testing.assert_close(theirs[:, : ours.shape[1]], ours, atol=1e-5, rtol=0)
    assert bool((theirs[:, ours.shape[1] :] < theirs.max(dim=1, keepdim=True).values).all())
    for question in ("What colour is it?", "Is there a banana? Look at all of it."):
        turns = [Turn(role="user", text=f"<image>\n{question}")]
        (answer,) = generate_tokens(assistant, [(turns, shown[:1])], Decoding(max_new_tokens=24))
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        ]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(
            images=shown[:1], text=text, add_special_tokens=False, return_tensors="pt"
        )
        whole = model.generate(**inputs, do_sample=False, max_new_tokens=24)
        assert whole[0, inputs["input_ids"].shape[1] :].tolist() == answer


def built(recipe: Recipe, **connector: Any) -> VisionLanguageModel:
    settings = ConnectorSettings(**connector)
    return build_from_recipe(msgspec.structs.replace(recipe, connector=settings))


@pytest.mark.parametrize(
    "connector",
    [{"kind": "linear"}, {"kind": "mlp", "depth": 1}, {"kind": "mlp"}],
    ids=["linear", "mlp1", "mlp2"],
)
def test_logits_and_answers_are_equal(
    tiny_recipe: Recipe, tmp_path: Path, connector: dict[str, Any]
) -> None:
    require_equality(built(tiny_recipe, **connector), tmp_path / "out")


def test_tied_embeddings_stay_tied(
    tiny_recipe: Recipe, tiny_models: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    config = LlamaForCausalLM.from_pretrained(tiny_models / "language").config
    config.tie_word_embeddings = True
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    tiny_tokenizer.save_pretrained(tmp_path / "tied")
    language = msgspec.structs.replace(tiny_recipe.language, source=str(tmp_path / "tied"))
    assistant = build_from_recipe(msgspec.structs.replace(tiny_recipe, language=language))
    require_equality(assistant, tmp_path / "out")
    model, _ = exported(assistant, tmp_path / "again")
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_adapters_are_merged_and_the_assistant_keeps_them(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    for module in tiny_assistant.adaptable().values():
        add_lora(module, LoraSettings(r=4, alpha=8))
        for name, weight in module.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.1)
    tiny_assistant.eval()
    require_equality(tiny_assistant, tmp_path / "out")
    assert all(has_lora(module) for module in tiny_assistant.adaptable().values())


@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("class_token", [False, True])
def test_the_layer_and_the_class_token_go_along(
    tiny_recipe: Recipe, tmp_path: Path, layer: int, class_token: bool
) -> None:
    vision = msgspec.structs.replace(tiny_recipe.vision, layer=layer, class_token=class_token)
    assistant = build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision))
    require_equality(assistant, tmp_path / "out")


@pytest.mark.parametrize("fit", ["pad", "crop", "resize"])
@pytest.mark.parametrize("size", [(40, 28), (17, 61), (28, 28), (300, 200)])
def test_the_processor_prepares_images_and_chats_as_laterna_does(
    tiny_recipe: Recipe, tmp_path: Path, fit: Any, size: tuple[int, int]
) -> None:
    vision = msgspec.structs.replace(tiny_recipe.vision, fit=fit)
    assistant = build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision))
    _, processor = exported(assistant, tmp_path / "out")
    shown = noise(1, size)
    turns = [
        Turn(role="user", text="<image>\nWhat is it?"),
        Turn(role="assistant", text="A cup."),
        Turn(role="user", text="Is it red?"),
    ]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    inputs = processor(
        images=shown,
        text=processor.apply_chat_template(messages, add_generation_prompt=True),
        add_special_tokens=False,
        return_tensors="pt",
    )
    assert torch.equal(inputs["pixel_values"], assistant.prepare(shown))
    ids = assistant.fusion.expand(
        tokenize_prompt(turns, assistant.tokenizer, assistant.template), [4]
    )
    image = processor.image_token_id
    assert inputs["input_ids"][0].tolist() == [
        image if token == IMAGE_TOKEN_INDEX else token for token in ids
    ]


def test_the_folder_states_what_the_engines_ask_for(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    model, processor = exported(tiny_assistant, tmp_path / "out")
    config, images = model.config, processor.image_processor
    assert config.vision_feature_layer == -2
    assert config.vision_feature_select_strategy == "default"
    assert config.projector_hidden_act == "gelu"
    assert config.image_seq_length == 4
    assert config.image_token_index == processor.image_token_id == len(tiny_assistant.tokenizer)
    assert (processor.patch_size, processor.num_additional_image_tokens) == (14, 1)
    assert (images.do_pad, images.do_center_crop) == (True, False)
    assert model.generation_config.eos_token_id == [tiny_assistant.tokenizer.eos_token_id]
    assert "<image>" not in tiny_assistant.tokenizer.get_vocab()
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


def test_half_precision_is_half_as_large(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    Assistant(tiny_assistant).export(tmp_path / "f32", to="hf")
    before = tiny_assistant.language.lm_head.weight.clone()
    Assistant(tiny_assistant).export(tmp_path / "f16", to="hf", precision="f16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("f32", "f16")]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    assert torch.equal(tiny_assistant.language.lm_head.weight, before)
    assert tiny_assistant.language.lm_head.weight.dtype == torch.float32


ENCODERS: dict[str, tuple[Any, Any, Any]] = {
    "siglip": (SiglipVisionModel, SiglipVisionConfig, SiglipImageProcessorPil),
    "dinov2": (Dinov2Model, Dinov2Config, BitImageProcessorPil),
}


@pytest.mark.parametrize("family", ENCODERS)
def test_other_encoders_of_the_format_go_along(
    tiny_recipe: Recipe, tmp_path: Path, family: str
) -> None:
    model, config, processor = ENCODERS[family]
    torch.manual_seed(6)
    model(
        config(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
    ).save_pretrained(tmp_path / "vision")
    side = {"height": 28, "width": 28}
    processor(size=side, crop_size=side).save_pretrained(tmp_path / "vision")
    vision = msgspec.structs.replace(tiny_recipe.vision, source=str(tmp_path / "vision"))
    assistant = build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=vision))
    require_equality(assistant, tmp_path / "out")


def test_what_the_format_lacks_is_refused_with_the_reason(
    tiny_recipe: Recipe, tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    deep = built(tiny_recipe, kind="mlp", depth=3)
    with pytest.raises(LaternaError, match="depth 3 cannot be exported: Hugging Face's LLaVA has"):
        export_hf(deep, tmp_path / "out")
    pooled = built(tiny_recipe, kind="pool")
    with pytest.raises(LaternaError, match="a 'pool' connector cannot be exported: Hugging Face"):
        export_hf(pooled, tmp_path / "out")
    normed = msgspec.structs.replace(
        tiny_recipe.vision, source="builtin:nano-vit", class_token=True
    )
    assistant = build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=normed))
    assistant.vision.final_norm = True
    with pytest.raises(LaternaError, match=r"vision\.final_norm = true cannot be exported"):
        export_hf(assistant, tmp_path / "out")
    assistant.vision.model.config.model_type = "blip_2_vision_model"
    with pytest.raises(LaternaError, match="an encoder of type blip_2_vision_model cannot be"):
        export_hf(assistant, tmp_path / "out")
    with pytest.raises(LaternaError, match="precision 'q4': this format has f32, f16, bf16"):
        Assistant(tiny_assistant).export(tmp_path / "out", to="hf", precision="q4")
    tiled = msgspec.structs.replace(tiny_recipe.vision, fit="anyres")
    with pytest.raises(LaternaError, match="'anyres' cannot be exported: Hugging Face's LLaVA rea"):
        export_hf(
            build_from_recipe(msgspec.structs.replace(tiny_recipe, vision=tiled)),
            tmp_path / "out",
        )
    tiny_assistant.plain_head = False
    with pytest.raises(LaternaError, match="scales or caps its logits"):
        export_hf(tiny_assistant, tmp_path / "out")
    with pytest.raises(
        LaternaError, match="'onnx': no such export format; use one of hf, idefics, blip2, gguf"
    ):
        Assistant(tiny_assistant).export(tmp_path / "out", to="onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_template_that_cannot_go_along_is_refused(
    tiny_assistant: VisionLanguageModel, tmp_path: Path
) -> None:
    # Read with trim_blocks, the newline would vanish behind what the export puts before it.
    tiny_assistant.template = "\n" + tiny_assistant.template
    with pytest.raises(LaternaError, match="would not read a chat as this assistant does"):
        export_hf(tiny_assistant, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
