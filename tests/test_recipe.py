"""Recipes: what they refuse, what they say about themselves, and what the command line makes."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from laterna import recipe as recipe_module
from laterna.cli import main, parse
from laterna.commands import TunedTrain
from laterna.errors import LaternaError
from laterna.recipe import (
    PartSettings,
    Recipe,
    Settings,
    SourceSettings,
    load_recipe,
    shipped_recipes,
)

MOSTS = {"maximum", "exclusiveMaximum"}
SMALL = """
name = "small"
[vision]
source = "v"
[language]
source = "l"
[align]
data = "a.json"
images = "images"
[instruct]
data = "i.json"
images = "images"
[instruct.connector]
mode = "full"
lr = 2e-5
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def rewritten(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def settings_of(struct: type[Settings]) -> dict[str, list[str]]:
    """The settings of a struct and of those inside it, by struct: what a person has to know.

    A stage and a part stand in several places of the tree and are known once; a source stands in
    a list. Counting places would count the first ones over and over, and the last one never.
    """
    known: dict[str, list[str]] = {struct.__name__: []}
    for field in msgspec.structs.fields(struct):
        inside = field.type.__args__[0] if field.name == "sources" else field.type
        if isinstance(inside, type) and issubclass(inside, Settings):
            known |= settings_of(inside)
        else:
            known[struct.__name__].append(field.encode_name)
    return known


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_loads_and_trains_something_in_each_stage(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    for stage in (recipe.align, recipe.instruct):
        parts = (stage.vision, stage.connector, stage.language)
        assert any(part.mode != "frozen" for part in parts)
        assert all((part.lr > 0) == (part.mode != "frozen") for part in parts)


def test_nano_is_shipped_and_follows_the_two_stages_of_llava() -> None:
    assert "nano" in shipped_recipes()
    nano = load_recipe("nano")
    assert (nano.vision.source, nano.language.source) == ("builtin:nano-vit", "builtin:nano-llama")
    assert nano.align.template == "plain"
    assert [nano.align.part(p).mode for p in ("vision", "connector", "language")] == [
        "frozen",
        "full",
        "frozen",
    ]
    assert [nano.instruct.part(p).mode for p in ("vision", "connector", "language")] == [
        "frozen",
        "full",
        "full",
    ]


def test_a_mixture_takes_the_place_of_one_source(small: Path) -> None:
    assert load_recipe(small).align.mixture() == (SourceSettings(data="a.json", images="images"),)
    sources = 'sources = [{data = "k.json", weight = 2}, {data = "hub:a/b", form = "messages"}]'
    mixed = load_recipe(rewritten(small, 'data = "a.json"\nimages = "images"', sources)).align
    assert mixed.mixture() == (
        SourceSettings(data="k.json", weight=2.0),
        SourceSettings(data="hub:a/b", form="messages"),
    )


def test_values_and_defaults_of_a_file(small: Path) -> None:
    recipe = load_recipe(small)
    assert recipe.instruct.connector == PartSettings(mode="full", lr=2e-5)
    assert recipe.instruct.language == PartSettings(mode="frozen", lr=0.0)
    assert (recipe.vision.layer, recipe.vision.fit, recipe.instruct.max_grad_norm) == (
        -2,
        "pad",
        1.0,
    )


def test_a_recipe_is_read_back_from_its_own_toml(small: Path, tmp_path: Path) -> None:
    recipe = load_recipe(small)
    again = msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)
    assert again == recipe


@pytest.mark.parametrize(
    ("old", "new", "key", "place"),
    [
        ("lr = 2e-5", "learning_rate = 2e-5", "learning_rate", "instruct.connector"),
        ('source = "v"', 'source = "v"\nlayers = -2', "layers", "vision"),
        ('name = "small"', 'name = "small"\nsede = 1', "sede", None),
    ],
)
def test_unknown_key_fails_with_its_place(
    small: Path, old: str, new: str, key: str, place: str | None
) -> None:
    with pytest.raises(LaternaError) as caught:
        load_recipe(rewritten(small, old, new))
    assert str(small) in str(caught.value)
    assert f"unknown field `{key}`" in str(caught.value)
    assert place is None or f": {place}: object contains" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr = 2e-5", 'lr = "2e-5"', "instruct.connector.lr 2e-5: expected `float`, got `str`"),
        (
            'mode = "full"',
            'mode = "ful"',
            "mode ful: expected `str` matching regex '^(frozen|full|lora|(lora-)?last-",
        ),
        ('data = "a.json"\n', "", "align: give either `data` or `sources`"),
        ("lr = 2e-5", "lr = -2e-5", "instruct.connector.lr -2e-05: give a number of at least 0"),
        (
            'data = "a.json"',
            'data = "a.json"\nglobal_batch_size = 0',
            "align.global_batch_size 0: give a whole number of at least 1",
        ),
        (
            'data = "i.json"\n',
            'data = "i.json"\nsources = [{data = "k.json", wieght = 2}]\n',
            "instruct.sources[0]: object contains unknown field `wieght`",
        ),
    ],
)
def test_wrong_value_fails_with_its_place(small: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(LaternaError) as caught:
        load_recipe(rewritten(small, old, new))
    assert str(small) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("option", "number", "bound"),
    [
        ("instruct.connector.lr", "1e15", "at most 1"),
        ("align.weight-decay", "1e9", "at most 100"),
        ("connector.depth", "1000000", "at most 256"),
        ("connector.queries", "0", "at least 1"),
        ("connector.blocks", "1000000", "at most 256"),
        ("connector.width", "1000000000", "at most 65536"),
        ("lora.r", "1000000", "at most 65536"),
        ("vision.image-size", "1000000", "at most 8192"),
        ("align.global-batch-size", "1000000000", "at most 1000000"),
        ("align.pack-length", "1000000000", "at most 100000000"),
        ("run.save-minutes", "1e30", "at most 1000000000000"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "train"])
def test_numbers_that_cannot_be_meant_are_refused(
    command: str, option: str, number: str, bound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "nano", f"--{option}", number]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--settings.{option}" not in said
    assert f"--{option} " in said
    assert f"number of {bound}" in said


def test_every_number_of_a_recipe_has_a_bound_on_both_sides() -> None:
    """A setting without one can be given what ends no run, or hangs it."""
    schema = msgspec.json.schema(Recipe)["$defs"]
    loose = [
        f"{struct}.{name}"
        for struct, form in schema.items()
        for name, field in form.get("properties", {}).items()
        for one in field.get("anyOf", [field])
        if one.get("type") in ("integer", "number")
        and not (one.keys() & {"minimum", "exclusiveMinimum"} and one.keys() & MOSTS)
    ]
    assert loose == []


def test_broken_toml_and_missing_file(small: Path, tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="not valid TOML"):
        load_recipe(rewritten(small, "[vision]", "[vision"))
    with pytest.raises(LaternaError, match=r"nowhere\.toml: no such recipe file.*nano"):
        load_recipe(tmp_path / "nowhere.toml")


def test_a_recipe_stays_small_enough_to_know() -> None:
    known = settings_of(Recipe)
    assert known["PartSettings"] == ["mode", "lr"]
    assert "weight" in known["SourceSettings"]
    structs = [one for one in vars(recipe_module).values() if isinstance(one, type)]
    assert set(known) == {
        one.__name__ for one in structs if issubclass(one, Settings) and one is not Settings
    }
    # Counted by settings to be known.
    assert sum(len(names) for names in known.values()) <= 90


def test_every_setting_carries_its_help() -> None:
    tree = ast.parse(Path(recipe_module.__file__).read_text(encoding="utf-8"))
    silent = []
    for struct in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        assert ast.get_docstring(struct), struct.name
        for field, after in zip(struct.body, [*struct.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and not (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                silent.append(f"{struct.name}.{ast.unparse(field.target)}")
    assert silent == []


def test_command_line_overrides_make_the_same_struct_as_the_file(small: Path) -> None:
    overrides = "--instruct.connector.lr 1e-4 --seed 7 --align.language.mode full"
    command = parse(["train", str(small), *overrides.split(), "--vision.class-token"])
    rewritten(small, "lr = 2e-5", "lr = 1e-4")
    rewritten(small, 'name = "small"', 'name = "small"\nseed = 7')
    rewritten(small, 'source = "v"', 'source = "v"\nclass_token = true')
    rewritten(small, "[instruct]", '[align.language]\nmode = "full"\n[instruct]')
    assert isinstance(command, TunedTrain)
    assert command.settings == load_recipe(small)


@pytest.mark.parametrize(
    ("name", "models", "connector", "batches", "epochs", "rates"),
    [
        ("llava-7b", ("", "7b-v1.3"), "linear", (128, 32), (1.0, 3.0), (2e-3, 2e-5, 2e-5)),
        ("llava-1.5-7b", ("-336", "7b-v1.5"), "mlp", (256, 128), (1.0, 1.0), (1e-3, 2e-5, 2e-5)),
        ("llava-1.5-13b", ("-336", "13b-v1.5"), "mlp", (256, 128), (1.0, 1.0), (1e-3, 2e-5, 2e-5)),
        (
            "llava-1.5-7b-lora",
            ("-336", "7b-v1.5"),
            "mlp",
            (256, 128),
            (1.0, 1.0),
            (1e-3, 2e-5, 2e-4),
        ),
    ],
)
def test_the_recipes_of_llava_hold_the_published_values(
    name: str,
    models: tuple[str, str],
    connector: str,
    batches: tuple[int, int],
    epochs: tuple[float, float],
    rates: tuple[float, float, float],
) -> None:
    recipe = load_recipe(name)
    align, instruct = recipe.align, recipe.instruct
    size, language = models
    assert recipe.vision.source == f"openai/clip-vit-large-patch14{size}"
    assert recipe.vision.fit == ("pad" if size else "crop")
    assert recipe.language.source == f"lmsys/vicuna-{language}"
    assert (align.template, instruct.template, recipe.language.template) == (
        "plain",
        "vicuna_v1",
        "vicuna_v1",
    )
    assert (recipe.connector.kind, recipe.connector.depth) == (connector, 2)
    assert recipe.savings == ("bf16", "checkpointing")
    assert (align.global_batch_size, instruct.global_batch_size) == batches
    assert (align.epochs, instruct.epochs) == epochs
    assert (align.connector.lr, instruct.connector.lr, instruct.language.lr) == rates
    assert (align.vision.mode, align.language.mode, instruct.vision.mode) == ("frozen",) * 3
    assert (recipe.vision.layer, recipe.vision.class_token) == (-2, False)
    for stage in (align, instruct):
        assert (stage.warmup_ratio, stage.weight_decay, stage.max_tokens) == (0.03, 0.0, 2048)
        assert (stage.optimizer, stage.max_grad_norm, stage.max_steps) == ("adamw", 1.0, 0)
    assert instruct.language.mode == ("lora" if "lora" in name else "full")
    assert (recipe.lora.r, recipe.lora.alpha) == (128, 256)


def test_the_recipe_of_minigpt_4_holds_the_published_values() -> None:
    """Of Vision-CAIR/MiniGPT-4: `train_configs/minigpt4_stage1_pretrain.yaml` and
    `minigpt4_stage2_finetune.yaml`. The paper (Zhu et al. 2023, section 3) says the same of stage
    1, 20,000 steps of 256, and 400 steps of 12 of stage 2, where the repository takes 1,000.
    """
    recipe = load_recipe("minigpt4-7b")
    align, instruct = recipe.align, recipe.instruct
    vision = recipe.vision
    assert (vision.layer, vision.class_token, vision.final_norm) == (-1, True, True)
    connector = recipe.connector
    assert (connector.kind, connector.frozen_qformer) == ("qformer", True)
    assert connector.source == recipe.vision.source == "Salesforce/blip2-flan-t5-xxl"
    assert connector.count("queries", default=32) == 32
    assert recipe.savings == ("bf16",)  # `amp: True`, in the 16 bits that need no scaled loss
    # 5,000 steps in each of 4 epochs, of 64 pairs on each of 4 GPUs; warm-up over 5,000 steps.
    assert (align.max_steps, align.global_batch_size) == (4 * 5000, 4 * 64)
    assert (align.connector.lr, align.warmup_ratio * align.max_steps) == (1e-4, 5000)
    # 200 steps in each of 5 epochs, of 12 pairs; warm-up over 200 steps.
    assert (instruct.epochs, instruct.max_steps, instruct.global_batch_size) == (5.0, 5 * 200, 12)
    assert (instruct.connector.lr, instruct.warmup_ratio * instruct.max_steps) == (3e-5, 200)
    for stage in (align, instruct):
        assert (stage.vision.mode, stage.language.mode) == ("frozen", "frozen")
        assert (stage.optimizer, stage.weight_decay) == ("adamw", 0.05)
