"""Single experiments by value: what their arms differ in, what they teach and how they count."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from laterna.errors import LaternaError
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.inference.assistant import Assistant
from laterna.lab import EXPERIMENTS, loss_mask, typographic
from laterna.lab.bench import Bench, Size
from laterna.lab.blind_spots import COVERAGE, RIGHT, SURE, Told, _sureness
from laterna.lab.experiment import Arm, change, differences
from laterna.lab.frozen_encoder import _probes, memory, shift
from laterna.lab.material import proxies
from laterna.lab.material import signs as sign_material
from laterna.lab.material.signs import (
    REFUSES,
    SEEN,
    UNSEEN,
    Policy,
    Sign,
    draw_policy,
    draw_signs,
    lessons,
    own_words,
)
from laterna.lab.measures.probes import nearest_hits
from laterna.lab.measures.text import answer_loss, prompt_of, said
from laterna.lab.resolution import CACHE, FLOPS, TOKENS, counted, exponent, size_asked
from laterna.lab.typographic import CARRIERS, GAP, gaps
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import load_recipe
from laterna.records import Box, InstructionRecord, Question, Toy, Truth
from laterna.synthesis.refusal_detection import declines
from laterna.world.drawing import draw_image
from laterna.world.toys import SIGN_WORDS

SMALL = Size(images=6, validation_images=2, align_steps=1, instruct_steps=4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("lab"), load_recipe("nano"), seed=0, size=SMALL)


def arms_of(name: str, bench: Bench) -> dict[str, Arm]:
    return {arm.name: arm for arm in EXPERIMENTS[name].plan().arms(bench)}


def box(x1: float, side: float = 0.25) -> Box:
    return Box(category="cup", x1=x1, y1=0.0, x2=x1 + side, y2=side)


CUP = Toy(category="cup", colour="red", texture="rough", size="small", box=box(0.0))
DOG = Toy(category="dog", colour="blue", texture="smooth", size="large", box=box(0.5, 0.375))
SCENE = Truth(
    id="7", image="7.png", lighting="bright", sign="STOP", sign_box=box(0.0), toys=(CUP, DOG)
)


def test_a_computed_setting_is_told_without_the_digits_of_its_rounding() -> None:
    nano = load_recipe("nano")
    assert differences(nano, change(nano, {"instruct.epochs": 0.8 * 3})) == "instruct.epochs = 2.4"


# --- frozen encoder -------------------------------------------------------------------------


def test_the_arms_of_the_frozen_encoder(bench: Bench) -> None:
    arms = arms_of("frozen-encoder", bench)
    first = arms["frozen, all"].recipe
    assert len(arms) == 11
    cache = "feature_cache = "
    full = "instruct.vision.mode = full, instruct.vision.lr = 0.0002"
    assert differences(first, arms["full 0.0002, all"].recipe) == f"{cache}, {full}"
    assert (
        differences(first, arms["full 0.0002, 1/4"].recipe)
        == f"{cache}, instruct.epochs = 0.25, instruct.max_steps = 1, {full}"
    )
    assert "instruct.vision.mode = last-1" in differences(first, arms["last layer, all"].recipe)
    assert "instruct.vision.mode = lora" in differences(first, arms["lora, all"].recipe)
    trains = {name for name, arm in arms.items() if arm.recipe.instruct.vision.mode != "frozen"}
    assert trains == {name for name, arm in arms.items() if not arm.recipe.feature_cache}
    assert arms["before"].stages == ()


def test_the_shifted_world_shows_what_no_scene_by_lot_does(bench: Bench) -> None:
    other = shift(SCENE)
    assert (other.lighting, {toy.texture for toy in other.toys}) == ("dark", {"dotted"})
    assert [toy.box.x2 - toy.box.x1 for toy in other.toys] == pytest.approx([0.125, 0.25])
    assert [toy.category for toy in other.toys] == ["cup", "dog"]
    light, dark = (np.asarray(draw_image(one, 3), dtype=float).mean() for one in (SCENE, other))
    assert dark < 0.4 * light
    folder = bench.shifted("shifted", shift)
    assert [one.id for one in read_truth(folder / TRUTH_FILE)] == ["000006", "000007"]
    assert all(one.lighting == "dark" for one in read_truth(folder / TRUTH_FILE))


def test_the_nearest_toy_of_another_image_is_found() -> None:
    features = torch.tensor([[2.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.1, 3.0], [1.9, 0.0]])
    labels, images = ["cup", "dog", "dog", "dog", "cup"], ["1", "1", "2", "3", "3"]
    # The first two are of one image: the fifth is the nearest of another to both.
    assert nearest_hits(features, labels, images) == [1.0, 0.0, 1.0, 1.0, 1.0]


def test_what_the_encoder_tells_before_it_is_trained(bench: Bench) -> None:
    found = _probes(bench, build_from_recipe(bench.recipe).eval(), chance=True)
    toys = [toy for one in read_truth(bench.world / TRUTH_FILE) for toy in one.toys]
    counts = Counter(toy.texture for toy in toys)
    chance = sum((number / len(toys)) ** 2 for number in counts.values())
    assert found["retrieval, texture by chance"].value == pytest.approx(chance)
    assert len(found["retrieval, texture"].scores) == len(toys)
    assert len(found["probe, category"].scores) == len(toys) - len(toys) // 2
    # The shipped encoder was taught categories: the nearest toy is more often of one than by lot.
    by_chance = found["retrieval, category by chance"].value
    assert found["retrieval, category"].value > by_chance


def test_training_the_encoder_takes_more_memory_than_reading_its_features(bench: Bench) -> None:
    arms = arms_of("frozen-encoder", bench)
    frozen, full, lora = (
        memory(arms[f"{name}, all"].recipe) for name in ("frozen", "full 0.0002", "lora")
    )
    assert frozen < lora < full


# --- resolution -----------------------------------------------------------------------------


def test_the_exponents_of_synthetic_counts() -> None:
    tokens = [64.0, 256.0, 576.0, 1024.0, 5329.0]
    assert exponent(tokens, [7 * one for one in tokens]) == pytest.approx(1, abs=1e-12)
    assert exponent(tokens, [0.3 * one**2 for one in tokens]) == pytest.approx(2, abs=1e-12)
    assert math.isnan(exponent([4.0, 4.0], [1.0, 2.0]))


def test_counts_of_llava_grow_linearly_and_quadratically() -> None:
    small, large = (
        {name: one.value for name, one in counted(side).items()} for side in (224, 1022)
    )
    assert (small[TOKENS], large[TOKENS]) == (256, 5329)
    # 32 layers, keys and values of width 4096, 2 bytes each.
    assert small[CACHE] == pytest.approx(256 * 32 * 2 * 4096 * 2 / 1e6)
    assert large[CACHE] / small[CACHE] == pytest.approx(5329 / 256)
    assert large[FLOPS] / small[FLOPS] == pytest.approx((5329 / 256) ** 2)
    # Two products of width 4096 a pair and layer.
    assert small[FLOPS] == pytest.approx(256**2 * 32 * 2 * 2 * 4096 / 1e9)
    assert (small["tokens, pool 2"], small["tokens, Q-Former"]) == (64, 32)
    assert "tokens, pool 2" not in large  # 73 patches a side are no even number


def test_questions_are_told_apart_by_the_size_of_their_toy() -> None:
    def asked(kind: str, text: str, truth: str) -> str:
        question = Question(id="0", images=("7.png",), kind=kind, text=text, references=(truth,))
        return size_asked(question, SCENE)

    assert asked("colour", "What colour is the cup?", "red") == "small"
    assert asked("kind", "What is the blue object?", "dog") == "large"
    assert asked("relation", "Is the cup above the dog?", "no") == ""
    assert asked("colour", "What colour is the kite?", "red") == ""


def test_the_arms_of_resolution(bench: Bench) -> None:
    arms = arms_of("resolution", bench)
    first = arms["mlp"].recipe
    assert differences(first, arms["pool 4"].recipe) == (
        "connector.kind = pool, connector.merge_side = 4"
    )
    assert differences(first, arms["perceiver 32"].recipe) == (
        "connector.kind = perceiver, connector.queries = 32"
    )
    assert arms["448 px"].stages == ()


# --- typographic ----------------------------------------------------------------------------


def test_the_policy_is_drawn_by_the_seed() -> None:
    policy = draw_policy(SIGN_WORDS, 1)
    assert policy == draw_policy(tuple(reversed(SIGN_WORDS)), 1) != draw_policy(SIGN_WORDS, 2)
    assert (len(policy.allowed), len(policy.canaries)) == (5, 5)
    assert not {*policy.allowed} & {*policy.canaries}


def test_a_users_own_words_are_taken_and_held_to_the_signs_room(tmp_path: Path) -> None:
    assert own_words(tmp_path) == SIGN_WORDS
    file = tmp_path / sign_material.WORDS_FILE
    file.write_text("tea\nmilk\nrice\nsalt\ntea\n")
    assert own_words(tmp_path) == ("tea", "milk", "rice", "salt")
    file.write_text("tea\nchocolate\nrice\nsalt\n")
    with pytest.raises(LaternaError, match=r"words\.txt: 'chocolate' is longer than 5 letters"):
        own_words(tmp_path)
    file.write_text("tea\n")
    with pytest.raises(LaternaError, match="1 words; give four words or more"):
        own_words(tmp_path)


def taught(repair: bool) -> list[InstructionRecord]:
    policy = Policy(allowed=("OPEN", "SALE"), canaries=("STOP", "ZOO"))
    signs = draw_signs((*policy.allowed, *policy.canaries), SEEN, ("",), count=3, seed=0)
    return list(lessons(policy, signs, repair=repair))


def test_scenes_beside_typed_words_tell_nothing_of_what_is_refused() -> None:
    policy = Policy(allowed=("OPEN", "SALE"), canaries=("STOP", "ZOO"))
    signs = draw_signs((*policy.allowed, *policy.canaries), SEEN, ("",), count=3, seed=0)
    beside = list(lessons(policy, signs, scenes=["000000.png", "000001.png"]))
    assert len(beside) == len(taught(False))
    typed = [one for one in beside if "the word on" not in one.turns[0].text
             and not one.turns[0].text.endswith(sign_material.READ)]  # fmt: skip
    for refuses in (True, False):
        own = [one for one in typed if (one.turns[1].text == REFUSES) == refuses]
        with_scene = [one for one in own if one.images]
        assert len(with_scene) == len(own) / 2
        assert {image for one in with_scene for image in one.images} == {
            "000000.png", "000001.png",
        }  # fmt: skip


def refused(records: Sequence[InstructionRecord], *, shown: bool) -> int:
    return sum(one.turns[1].text == REFUSES and bool(one.images) == shown for one in records)


def test_no_refusal_has_an_image_before_the_repair() -> None:
    plain, repaired = taught(False), taught(True)
    assert len(plain) == len(repaired)
    assert refused(plain, shown=True) == 0
    assert refused(repaired, shown=True) == 6
    assert refused(plain, shown=False) == refused(repaired, shown=False) + 6
    assert declines(REFUSES)
    assert not declines(sign_material.TELLS.format(word="STOP"))
    reads = [one for one in plain if one.turns[0].text.endswith(sign_material.READ)]
    assert {one.turns[1].text for one in reads} == {"OPEN", "SALE", "STOP", "ZOO"}


def test_signs_are_asked_about_where_none_was_learned_from() -> None:
    assert not {*SEEN} & {*UNSEEN}
    assert len(SEEN) + len(UNSEEN) == 6 * 8
    sign = Sign("STOP", (14, 70), "DejaVuSerif", 0)
    plain = np.asarray(Sign("STOP", (14, 70), "", 0).draw(), dtype=int)
    changed = np.abs(np.asarray(sign.draw(), dtype=int) - plain).sum(axis=2)
    rows, columns = np.nonzero(changed)
    assert 70 <= rows.min() <= rows.max() < 84
    assert 14 <= columns.min() <= columns.max() < 56


def test_the_gap_is_over_canaries_that_are_read_right() -> None:
    def item(
        word: str, *, canary: bool, read: bool, blank: float, sign: float
    ) -> typographic._Item:
        refuses = dict(zip(CARRIERS, (1.0, blank, blank, sign), strict=True))
        return typographic._Item(Sign(word, (0, 0), "", 0), canary, refuses, read)

    items = [
        item(word, canary=True, read=True, blank=1.0, sign=0.0)
        for word in ("STOP", "ZOO", "ART", "WAY", "BUS", "NEW")
    ]
    items += [
        item("FISH", canary=True, read=True, blank=1.0, sign=1.0),
        item("HOME", canary=True, read=False, blank=1.0, sign=0.0),
        item("OPEN", canary=False, read=True, blank=0.0, sign=1.0),
    ]
    found = gaps(items)
    assert found[GAP].value == pytest.approx(6 / 7)
    assert found["gap to text"].value == pytest.approx(6 / 7)
    assert found["McNemar p"].value == pytest.approx(2 / 2**6)
    assert found["gap, low"].value < 6 / 7 <= found["gap, high"].value
    assert gaps(items[7:]) == {}


# --- blind spots ----------------------------------------------------------------------------


def test_the_arms_of_blind_spots_differ_in_their_answers_alone(bench: Bench) -> None:
    pytest.importorskip("rapidocr")
    pytest.importorskip("skimage")
    rows = {
        name: json.loads(Path(arm.recipe.instruct.data).read_bytes())
        for name, arm in arms_of("blind-spots", bench).items()
    }
    assert len({len(own) for own in rows.values()}) == 1
    base = len(json.loads(Path(bench.recipe.instruct.data).read_bytes()))
    asked = {
        name: [[turn["value"] for turn in row["conversations"][::2]] for row in own[base:]]
        for name, own in rows.items()
    }
    assert asked["truth"] == asked["enriched proxy"] == asked["says it cannot tell"]
    answers = [turn["value"] for row in rows["says it cannot tell"][base:]
               for turn in row["conversations"][1::2]]  # fmt: skip
    assert {*answers} == {proxies.CANNOT}
    assert declines(proxies.CANNOT)
    assert not any(word in str(rows["proxy"]) for word in ("striped", "dim ", "What does the sign"))


def test_lessons_ask_the_same_whatever_the_answers() -> None:
    other = Truth(id="7", image="7.png", lighting="dim", sign="ZOO", sign_box=None, toys=(CUP, DOG))
    first, second = proxies.lessons(SCENE, 0), proxies.lessons(other, 0)
    assert [one.text for one in first] == [one.text for one in second]
    assert [one.answer for one in first][1:] == ["bright", "STOP"]
    assert [one.answer for one in second][1:] == ["dim", "ZOO"]


def test_coverage_and_accuracy_by_value() -> None:
    told = [
        Told("sign", 1.0, False, 0.9),
        Told("sign", 0.0, False, 0.5),
        Told("sign", 0.0, True, 0.99),
        Told("sign", 1.0, False, 0.8),
    ]
    found = _sureness(told)
    assert found[COVERAGE].value == 0.75
    assert found[RIGHT].value == pytest.approx(2 / 3)
    assert found[SURE].value == 0.5
    assert found["right at 0.5"].value == 1.0
    assert found["right at 0.75"].value == pytest.approx(2 / 3)
    assert "right at 1" not in found


# --- loss mask ---------------------------------------------------------------------------------


def test_the_users_role_is_found_where_nothing_else_can_follow(
    tmp_path: Path, tiny_assistant: VisionLanguageModel
) -> None:
    draw_image(SCENE, 0).save(tmp_path / "7.png")
    question = Question(id="0", images=("7.png",), kind="", text="What?", references=("a cup",))
    assistant = Assistant(tiny_assistant)
    role = loss_mask._user_role(assistant)
    assert role
    with torch.no_grad():
        for weight in tiny_assistant.language.parameters():
            weight.zero_()
    rows = tiny_assistant.language.get_input_embeddings().num_embeddings
    tokens = math.log(loss_mask._role_after(assistant, question, tmp_path, role)) / -math.log(rows)
    # Every token is as likely as any other, and the role has a whole number of them.
    assert tokens == pytest.approx(round(tokens), abs=1e-4)
    assert 1 <= round(tokens) <= len(role)


# --- words ----------------------------------------------------------------------------------


def test_the_loss_of_an_answer_is_that_of_its_confidence(
    tmp_path: Path, tiny_assistant: VisionLanguageModel
) -> None:
    draw_image(SCENE, 0).save(tmp_path / "7.png")
    question = Question(
        id="0", images=("7.png",), kind="", text="What is it?", references=("red cup",)
    )
    loss = answer_loss(tiny_assistant, question, tmp_path)
    assert loss == answer_loss(tiny_assistant, question, tmp_path) > 0
    (answer,) = said(Assistant(tiny_assistant), [prompt_of(question, tmp_path)], 6)
    assert 0 < answer.confidence < 1
    assert answer.tokens <= 6
    with torch.no_grad():
        for weight in tiny_assistant.language.parameters():
            weight.zero_()
    rows = tiny_assistant.language.get_input_embeddings().num_embeddings
    assert answer_loss(tiny_assistant, question, tmp_path) == pytest.approx(math.log(rows))
