from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from laterna.errors import LaternaError
from laterna.model.assistant import Assistant
from laterna.recipe import PartSettings, Recipe, StageSettings
from laterna.training.stages import apply_stage, parameter_groups, stage_table


def test_stage_one_trains_the_connector_alone(
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    summary = apply_stage(tiny_assistant, tiny_recipe.align)
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
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    apply_stage(tiny_assistant, tiny_recipe.align)
    summary = apply_stage(tiny_assistant, tiny_recipe.instruct)
    assert [part.trained > 0 for part in summary.parts] == [False, True, True]
    assert [part.lr for part in summary.parts] == [0.0, 1e-2, 5e-3]
    modes = {name: part.training for name, part in tiny_assistant.parts().items()}
    assert modes == {"vision": False, "connector": True, "language": True}
    assert tiny_assistant.changed == {"connector", "language"}


def test_groups_hold_each_trained_weight_once_and_spare_biases_and_norms(
    tiny_assistant: Assistant, tiny_recipe: Recipe
) -> None:
    full = PartSettings(mode="full", lr=1.0)
    stage = StageSettings(
        data="a.json", pictures="", weight_decay=0.1, connector=full, language=full
    )
    apply_stage(tiny_assistant, stage)
    groups = parameter_groups(tiny_assistant, stage)
    held = [id(weight) for group in groups for weight in group["params"]]
    trained = [id(weight) for weight in tiny_assistant.parameters() if weight.requires_grad]
    assert sorted(held) == sorted(trained)
    for group in groups:
        shapes = {weight.ndim >= 2 for weight in group["params"]}
        assert shapes == {group["weight_decay"] == 0.1}


def test_a_part_that_trains_needs_a_learning_rate(tiny_assistant: Assistant) -> None:
    stage = StageSettings(data="a.json", connector=PartSettings(mode="full"))
    with pytest.raises(LaternaError, match=r"connector\.lr = 0\.0"):
        apply_stage(tiny_assistant, stage)


def test_a_stage_that_trains_nothing_is_refused(tiny_assistant: Assistant) -> None:
    with pytest.raises(LaternaError, match="trains no part"):
        apply_stage(tiny_assistant, StageSettings(data="a.json"))


def test_the_table_says_what_trains(tiny_assistant: Assistant, tiny_recipe: Recipe) -> None:
    out = StringIO()
    summary = apply_stage(tiny_assistant, tiny_recipe.align)
    Console(file=out, width=100).print(stage_table("align", summary))
    rows = [line.split() for line in out.getvalue().splitlines() if "connector" in line]
    assert [cell for cell in rows[0] if cell.isalnum() or "," in cell or "." in cell] == [
        "connector",
        "full",
        "1,856",
        "0",
        "0.01",
    ]
