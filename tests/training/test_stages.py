from __future__ import annotations

import re
from io import StringIO

import pytest
import torch
from msgspec.structs import replace
from rich.console import Console
from transformers import BitImageProcessorPil, ResNetConfig, ResNetModel

from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.connectors import build_connector
from laterna.model.vision import VisionTower
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, LoraSettings, PartSettings, Recipe, StageSettings
from laterna.training.stages import apply_stage, parameter_groups, stage_table


def test_stage_one_trains_the_connector_alone(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    summary = apply_stage(tiny_assistant, tiny_recipe, "align")
    connector = 24 * 32 + 32 + 32 * 32 + 32
    assert {part.part: part.trained for part in summary.parts} == {
        "vision": 0,
        "connector": connector,
        "language": 0,
    }
    assert summary.trained == connector
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"connector"}
    assert tiny_assistant.changed == {"connector"}


def test_stage_two_frees_the_language_model_and_keeps_the_encoder(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    apply_stage(tiny_assistant, tiny_recipe, "align")
    summary = apply_stage(tiny_assistant, tiny_recipe, "instruct")
    assert [part.trained > 0 for part in summary.parts] == [False, True, True]
    assert [part.lr for part in summary.parts] == [0.0, 1e-2, 5e-3]
    modes = {name: part.training for name, part in tiny_assistant.parts().items()}
    assert modes == {"vision": False, "connector": True, "language": True}
    assert tiny_assistant.changed == {"connector", "language"}


def test_groups_hold_each_trained_weight_once_and_spare_biases_and_norms(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    full = PartSettings(mode="full", lr=1.0)
    stage = StageSettings(data="x", weight_decay=0.1, connector=full, language=full)
    apply_stage(tiny_assistant, replace(tiny_recipe, align=stage), "align")
    groups = parameter_groups(tiny_assistant, stage)
    held = [id(weight) for group in groups for weight in group["params"]]
    trained = [id(weight) for weight in tiny_assistant.parameters() if weight.requires_grad]
    assert sorted(held) == sorted(trained)
    for group in groups:
        shapes = {weight.ndim >= 2 for weight in group["params"]}
        assert shapes == {group["weight_decay"] == 0.1}


def with_parts(recipe: Recipe, **parts: PartSettings) -> Recipe:
    """The recipe with only these parts in stage 1."""
    return replace(recipe, align=StageSettings(data="x", **parts))  # type: ignore[arg-type]


def test_a_part_that_trains_needs_a_learning_rate(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    ours = with_parts(tiny_recipe, connector=PartSettings(mode="full"))
    with pytest.raises(LaternaError, match=r"connector\.lr = 0\.0"):
        apply_stage(tiny_assistant, ours, "align")


def test_a_stage_that_trains_nothing_is_refused(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    with pytest.raises(LaternaError, match="trains no part"):
        apply_stage(tiny_assistant, with_parts(tiny_recipe), "align")


def test_last_layers_train_and_those_before_do_not(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    last = PartSettings(mode="last-1", lr=1e-3)
    summary = apply_stage(
        tiny_assistant, with_parts(tiny_recipe, vision=last, language=last), "align"
    )
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    # Of the encoder's three layers two are run; of the language model's two, both.
    assert {re.sub(r"\.(self_attn|mlp|\w*norm\w*)\..*", "", name) for name in trained} == {
        "vision.model.encoder.layers.1",
        "language.model.layers.1",
    }
    language = tiny_assistant.language
    assert summary.parts[2].trained == sum(w.numel() for w in language.model.layers[1].parameters())
    assert summary.parts[2].frozen == sum(w.numel() for w in language.parameters()) - (
        summary.parts[2].trained
    )
    assert tiny_assistant.changed == {"vision", "language"}
    too_many = with_parts(tiny_recipe, language=PartSettings(mode="last-3", lr=1.0))
    with pytest.raises(LaternaError, match="this part has 2 layers"):
        apply_stage(tiny_assistant, too_many, "align")


def test_a_frozen_qformer_trains_its_linear_layer_alone(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    settings = ConnectorSettings(
        kind="qformer", width=64, blocks=2, queries=3, source="read before", frozen_qformer=True
    )
    tiny_assistant.connector = build_connector(settings, 24, 32, fresh=False)
    ours = with_parts(tiny_recipe, connector=PartSettings(mode="full", lr=1e-3))
    summary = apply_stage(tiny_assistant, ours, "align")
    assert summary.trained == 64 * 32 + 32
    (group, biases) = parameter_groups(tiny_assistant, ours.align)
    assert [tuple(weight.shape) for weight in group["params"] + biases["params"]] == [
        (32, 64),
        (32,),
    ]
    assert tiny_assistant.connector.training
    assert not any(module.training for module in tiny_assistant.connector.qformer.modules())  # type: ignore[union-attr]


def test_last_layers_of_a_convolutional_tower_are_its_stages(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    config = ResNetConfig(hidden_sizes=[8, 12], depths=[1, 5], embedding_size=6)
    square = BitImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    tower = VisionTower(ResNetModel(config), square, layer=-1)
    tiny_assistant.vision = tower
    ours = with_parts(tiny_recipe, vision=PartSettings(mode="last-1", lr=1e-3))
    summary = apply_stage(tiny_assistant, ours, "align")
    first, last = tower.model.encoder.stages
    assert summary.trained == sum(weight.numel() for weight in last.parameters())
    assert {module.training for module in last.modules()} == {True}
    assert {module.training for module in first.modules()} == {False}


def test_a_connector_trains_whole(tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe) -> None:
    ours = with_parts(tiny_recipe, connector=PartSettings(mode="last-1", lr=1e-3))
    with pytest.raises(LaternaError, match=r"connector\.mode = `last-1`: a connector trains whole"):
        apply_stage(tiny_assistant, ours, "align")


def test_adapters_train_beside_frozen_weights_and_are_seeded(tiny_recipe: Recipe) -> None:
    ours = with_parts(tiny_recipe, language=PartSettings(mode="lora", lr=1e-3))
    ours = replace(ours, lora=LoraSettings(r=2, alpha=4))
    drawn = []
    for _ in range(2):
        assistant = build_from_recipe(ours)
        summary = apply_stage(assistant, ours, "align")
        weights = dict(assistant.language.named_parameters())
        trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
        assert all(".lora_" in name for name in trained)
        # q, o: 32 to 32; k, v: 32 to 16; gate, up: 32 to 64; down: 64 to 32; two layers.
        assert summary.trained == 2 * 2 * (2 * 64 + 2 * 48 + 3 * 96)
        assert assistant.changed == set()
        drawn.append(torch.cat([weight.flatten() for weight in trained.values()]))
    assert torch.equal(*drawn)
    apply_stage(assistant, ours, "align")  # adapters of an earlier stage go on
    after = [weight for weight in assistant.language.parameters() if weight.requires_grad]
    assert torch.equal(torch.cat([weight.flatten() for weight in after]), drawn[1])
    with pytest.raises(LaternaError, match="carries adapters from an earlier stage"):
        full = PartSettings(mode="full", lr=1e-3)
        apply_stage(assistant, with_parts(tiny_recipe, language=full), "align")
    with pytest.raises(LaternaError, match="only vision and language can carry adapters"):
        lora = PartSettings(mode="lora", lr=1e-3)
        apply_stage(assistant, with_parts(tiny_recipe, connector=lora), "align")


def adapted(assistant: VisionLanguageModel) -> dict[str, set[str]]:
    """The layers that carry adapters, by part, and the last names of what is adapted there."""
    names = [name for name, _ in assistant.named_parameters() if ".lora_A." in name]
    found: dict[str, set[str]] = {}
    for name in names:
        layer = re.sub(r"\.(self_attn|mlp)\..*", "", name)
        found.setdefault(layer, set()).add(name.split(".")[-4])
    return found


def test_adapters_of_the_last_layers_stand_and_train_there_alone(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    last = PartSettings(mode="lora-last-1", lr=1e-3)
    ours = replace(
        with_parts(tiny_recipe, vision=last, language=last), lora=LoraSettings(r=2, alpha=4)
    )
    summary = apply_stage(tiny_assistant, ours, "align")
    attention = {"q_proj", "k_proj", "v_proj"}
    # Of the encoder's three layers two are run; of the language model's two, both.
    assert adapted(tiny_assistant) == {
        "vision.model.encoder.layers.1": attention | {"out_proj", "fc1", "fc2"},
        "language.model.layers.1": attention | {"o_proj", "gate_proj", "up_proj", "down_proj"},
    }
    trained = {name for name, weight in tiny_assistant.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in tiny_assistant.named_parameters() if ".lora_" in name}
    assert tiny_assistant.changed == set()
    # Width 24, 48 inside; width 32, 64 inside, keys and values 16: rank times what goes in and out.
    vision = 2 * (4 * (24 + 24) + 2 * (24 + 48))
    language = 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert [part.trained for part in summary.parts] == [vision, 0, language]
    apply_stage(tiny_assistant, ours, "align")  # adapters of an earlier stage go on
    assert {n for n, weight in tiny_assistant.named_parameters() if weight.requires_grad} == trained


def test_adapters_of_the_last_layers_are_those_that_targets_name(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    ours = with_parts(tiny_recipe, language=PartSettings(mode="lora-last-1", lr=1e-3))
    ours = replace(ours, lora=LoraSettings(r=2, targets=("v_proj", "up_proj")))
    apply_stage(tiny_assistant, ours, "align")
    assert adapted(tiny_assistant) == {"language.model.layers.1": {"v_proj", "up_proj"}}


@pytest.mark.parametrize(
    ("mode", "before", "message"),
    [
        ("lora", "lora-last-1", "carries adapters from an earlier stage in its layers 2 alone"),
        ("lora-last-1", "lora", "carries adapters from an earlier stage in all layers; give both"),
        ("lora-last-1", "lora-last-2", "in its layers 1, 2 alone; give both stages the same mode"),
        ("last-1", "lora-last-1", "carries adapters from an earlier stage; use that stage's mode"),
        ("lora-last-3", "frozen", "this part has 2 layers"),
    ],
)
def test_adapters_in_other_layers_than_before_are_refused(
    mode: str, before: str, message: str, tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    trained = PartSettings(mode="full", lr=1e-3)
    for asked in (before, mode):
        part = PartSettings(mode=asked, lr=1e-3)
        ours = with_parts(tiny_recipe, connector=trained, language=part)
        if asked == before:
            apply_stage(tiny_assistant, ours, "align")
    with pytest.raises(LaternaError, match=rf"^language\.mode = `{mode}`: .*{message}"):
        apply_stage(tiny_assistant, ours, "align")


def test_adapters_where_nothing_is_linear_are_refused(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    config = ResNetConfig(hidden_sizes=[8, 12], depths=[1, 1], embedding_size=6)
    square = BitImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    tiny_assistant.vision = VisionTower(ResNetModel(config), square, layer=-1)
    ours = with_parts(tiny_recipe, vision=PartSettings(mode="lora-last-1", lr=1e-3))
    with pytest.raises(LaternaError, match="no layer is linear where adapters"):
        apply_stage(tiny_assistant, ours, "align")


def test_the_table_says_what_trains(
    tiny_assistant: VisionLanguageModel, tiny_recipe: Recipe
) -> None:
    out = StringIO()
    summary = apply_stage(tiny_assistant, tiny_recipe, "align")
    Console(file=out, width=100).print(stage_table("align", summary))
    rows = [line.split() for line in out.getvalue().splitlines() if "connector" in line]
    assert [cell for cell in rows[0] if cell.isalnum() or "," in cell or "." in cell] == [
        "connector",
        "full",
        "1,856",
        "0",
        "0.01",
    ]
