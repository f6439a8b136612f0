from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from laterna.world.pretrain import language
from laterna.world.pretrain.corpus import write_document
from laterna.world.pretrain.language import (
    Documents,
    _plain_sample,
    batches,
    language_config,
    make_tokenizer,
    pretrain_language,
    text_loss,
)
from laterna.world.pretrain.settings import LanguagePretraining

TINY = LanguagePretraining(steps=2, batch=2, vocabulary=400, row_tokens=256)


@pytest.fixture(autouse=True)
def few_tokenizer_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_TOKENIZER_TEXTS", 40)


def test_documents_come_a_step_at_a_time_and_learn_what_follows_the_description() -> None:
    tokenizer = make_tokenizer(TINY)
    steps = list(Documents(tokenizer, TINY))
    assert [[sample.id for sample in step] for step in steps] == [["0", "1"], ["2", "3"]]
    for sample in (sample for step in steps for sample in step):
        record, is_chat = write_document(1, int(sample.id), 1 if sample.id == "0" else 5)
        ids = sample.input_ids
        learned = tokenizer.decode(
            [number for number, wanted in zip(ids, sample.targets, strict=True) if wanted]
        )
        if is_chat:
            # a token at the border may carry the blank before an answer
            answers = "</s>".join(t.text for t in record.turns if t.role == "assistant") + "</s>"
            assert learned.replace("</s> ", "</s>").strip() == answers


def test_a_plain_text_is_description_then_caption() -> None:
    tokenizer = make_tokenizer(TINY)
    sample = _plain_sample(tokenizer, "x", "red dog", "A dog.")
    learned = [n for n, wanted in zip(sample.input_ids, sample.targets, strict=True) if wanted]
    assert tokenizer.decode(sample.input_ids) == "<s>red dogA dog.\n"
    assert tokenizer.decode(learned) == "A dog.\n"
    assert sample.picture_slots == ()


def test_loss_is_the_mean_over_the_targets() -> None:
    tokenizer = make_tokenizer(TINY)
    torch.manual_seed(0)
    model = language.LlamaForCausalLM(language_config(tokenizer))
    batch = next(batches(tokenizer, TINY))
    logits = model(
        input_ids=batch.input_ids_rt, position_ids=batch.position_ids_rt, use_cache=False
    ).logits
    log_p = logits[:, :-1].log_softmax(-1)
    picked = log_p.gather(-1, batch.input_ids_rt[:, 1:, None].clamp(min=0))[..., 0]
    wanted = batch.targets_rt[:, 1:]
    expected = -(picked * wanted).sum() / wanted.sum()
    assert text_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_two_steps_write_a_folder_that_transformers_reads(tmp_path: Path) -> None:
    out = tmp_path / "language"
    figures = pretrain_language(TINY, out)
    assert figures["step"] == 2
    assert 5.0 < figures["loss"] < 7.0, "about ln 400 before it has learned"
    assert [path.name for path in tmp_path.iterdir()] == ["language"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert len(tokenizer) == model.config.vocab_size == 400
    assert model.config.tie_word_embeddings
    assert tokenizer.padding_side == "left"
