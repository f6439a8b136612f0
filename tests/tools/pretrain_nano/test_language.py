from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from laterna.errors import LaternaError
from pretrain_nano import language
from pretrain_nano.corpus import write_document
from pretrain_nano.described import describe_samples
from pretrain_nano.language import (
    Documents,
    batches,
    begin_by_matching,
    go_on,
    language_config,
    lr_factor,
    make_tokenizer,
    optimizers,
    pretrain_language,
)
from pretrain_nano.settings import LanguagePretraining

TINY = LanguagePretraining(steps=2, step_tokens=400, vocabulary=400, pack_length=256)


@pytest.fixture(autouse=True)
def few_tokenizer_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_TOKENIZER_DOCUMENTS", 40)


def test_documents_come_a_step_at_a_time_and_easy_ones_first() -> None:
    settings = msgspec.structs.replace(TINY, steps=10)
    tokenizer = make_tokenizer(settings)
    steps = list(Documents(tokenizer, settings))
    assert len(steps) == 10
    easy_then_all = {0: (1, 0.85, 0.08), 2: (3, 0.85, 0.08), 4: (5, 0.85, 0.3), 9: (5, 0.25, 1.0)}
    number = 0
    for step, made in enumerate(steps):
        assert sum(one.length for one in made) >= settings.step_tokens
        assert sum(one.length for one in made[:-1]) < settings.step_tokens
        toys, tables, squares = easy_then_all.get(step, (0, 0.0, 0.0))
        for found in made:
            if not toys:
                toys, tables, squares = _between(step)
            document = write_document(1, number, toys, tables, squares)
            assert found == describe_samples(document, tokenizer)
            number += 1


def _between(step: int) -> tuple[int, float, float]:
    """Return the schedules' values at the steps between those that the test names."""
    return (3, 0.85, 0.08) if step == 1 else (5, 0.85, 0.3) if step == 3 else (5, 0.25, 1.0)


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [lr_factor(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 30)
    assert set(rates[29:651]) == {1.0}
    assert rates[825] == pytest.approx(0.5)
    assert rates[1000] == 0.0


def test_muon_has_the_matrices_and_adamw_the_rest() -> None:
    model = language.LlamaForCausalLM(language_config(make_tokenizer(TINY)))
    muon, adamw = ({id(w) for group in one.param_groups for w in group["params"]}
                   for one in optimizers(model, TINY))  # fmt: skip
    assert not muon & adamw
    assert muon | adamw == {id(weight) for weight in model.parameters()}
    assert id(model.model.layers[0].mlp.up_proj.weight) in muon
    assert id(model.model.embed_tokens.weight) in adamw
    assert id(model.model.norm.weight) in adamw


def test_batches_are_the_documents_in_rows() -> None:
    tokenizer = make_tokenizer(TINY)
    made = list(batches(tokenizer, TINY))
    assert len(made) == 2
    documents = next(iter(Documents(tokenizer, TINY)))
    learned = sum(sum(sample.targets) for one in documents for sample in one.samples)
    assert made[0].labels_s.shape == (learned,)


def test_two_steps_write_a_folder_that_transformers_reads(tmp_path: Path) -> None:
    out = tmp_path / "language"
    figures = pretrain_language(TINY, out)
    assert figures["step"] == 2
    assert 4.0 < figures["loss"] < 9.0, "ln 400 is 6.0, and heads that copy begin worse"
    assert 0.0 <= figures["right"] < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["language"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert len(tokenizer) == model.config.vocab_size == 400
    assert model.config.tie_word_embeddings
    assert model.dtype == torch.float16
    assert tokenizer.padding_side == "left"


@torch.no_grad()
def test_heads_begin_by_attending_to_like_tokens() -> None:
    torch.manual_seed(0)
    model = language.LlamaForCausalLM(language_config(make_tokenizer(TINY)))
    model.set_attn_implementation("eager")  # the only one that tells its weights
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 5]])

    def to_like_and_others() -> tuple[torch.Tensor, torch.Tensor]:
        weights = model(ids, output_attentions=True, use_cache=False).attentions[0][0, :, 8]
        return weights[:, 0], weights[:, 1:8].mean(-1)

    like, others = to_like_and_others()
    assert (like < 1.5 * others).all()
    begin_by_matching(model)
    like, others = to_like_and_others()
    assert (like > 5 * others).all(), "the same token, eight places before"


def test_going_on_starts_from_what_was_learned_and_keeps_the_tokenizer(tmp_path: Path) -> None:
    pretrain_language(TINY, tmp_path / "begun")
    still = msgspec.structs.replace(TINY, lr=0.0)
    go_on(tmp_path / "begun", still, tmp_path / "still")
    go_on(tmp_path / "begun", TINY, tmp_path / "on")
    begun, kept, on = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("begun", "still", "on")
    )
    assert all(torch.equal(begun[name], kept[name]) for name in begun)
    assert not all(torch.equal(begun[name], on[name]) for name in begun)
    words = [(tmp_path / name / "tokenizer.json").read_text() for name in ("begun", "on")]
    assert words[0] == words[1]


def test_a_folder_without_a_language_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=f"{tmp_path}: cannot read the tokenizer"):
        go_on(tmp_path, TINY, tmp_path / "out")
    assert not list(tmp_path.iterdir())
