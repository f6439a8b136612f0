from __future__ import annotations

import msgspec
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from laterna.records import Box, Toy, Truth
from pretrain_nano import language, measure
from pretrain_nano.corpus import write_document
from pretrain_nano.described import TextBatch
from pretrain_nano.measure import _ATTRIBUTES, is_examination
from pretrain_nano.settings import LanguagePretraining
from pretrain_nano.tokenizer import CHAT_TEMPLATE


def test_examinations_are_told_from_other_documents() -> None:
    documents = [write_document(1, index) for index in range(200)]
    found = [document for document in documents if is_examination(document)]
    assert 50 < len(found) < 100
    for document in found:
        assert document.template == CHAT_TEMPLATE
        assert all(record.turns[0].text.startswith("<image>") for record in document.records)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_TOKENIZER_DOCUMENTS", 40)
        return language.make_tokenizer(LanguagePretraining(vocabulary=500))


def test_a_model_that_knows_one_word_is_right_where_it_is_the_answer(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer begins with " yes" and ends, whatever was asked and described."""
    (yes,) = tokenizer(" yes", add_special_tokens=False)["input_ids"]
    likely = torch.zeros(len(tokenizer))
    likely[yes], likely[tokenizer.eos_token_id] = 2.0, 1.0

    def says_yes(_: object, batch: TextBatch) -> torch.Tensor:
        logits = likely.repeat(len(batch.labels_s), 1)
        logits[batch.labels_s == tokenizer.eos_token_id, yes] = 0.0
        return logits

    monkeypatch.setattr(measure, "target_logits", says_yes)
    monkeypatch.setattr(measure, "DOCUMENTS", 250)
    found = measure.measure_language(None, tokenizer)  # type: ignore[arg-type]
    by_what = {known.what: known for known in found}
    assert by_what["map: colour"].accuracy == by_what["prose: place"].accuracy == 0.0
    relation = by_what["map: relation"]
    assert 0.1 < relation.accuracy < 0.6
    assert relation.control == relation.accuracy, "it never looked"
    assert relation.accuracy <= relation.chance


def test_what_is_looked_for_in_a_image() -> None:
    box = Box(category="cup", x1=0.5, y1=0.125, x2=0.75, y2=0.375)
    cup = Toy(category="cup", colour="red", texture="rough", size="small", box=box)
    sign_box = Box(category="sign", x1=0.0, y1=0.0, x2=0.375, y2=0.125)
    truth = Truth(id="1", image="1.png", lighting="dim", sign="ZOO", sign_box=sign_box, toys=(cup,))
    assert {what: look(truth) for what, (look, _) in _ATTRIBUTES.items()} == {
        "category": ("cup", box),
        "colour": ("red", box),
        "size": ("small", box),
        "texture": ("rough", box),
        "lighting": ("dim", None),
        "sign word": ("ZOO", sign_box),
    }
    unsigned = msgspec.structs.replace(truth, sign=None, sign_box=None)
    assert _ATTRIBUTES["sign word"][0](unsigned) is None, "no case of the probe"
