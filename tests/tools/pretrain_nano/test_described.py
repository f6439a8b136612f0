from __future__ import annotations

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from laterna.data.masking import tokenize
from laterna.records import IMAGE_TOKEN_INDEX
from pretrain_nano import language
from pretrain_nano.corpus import Document, write_document
from pretrain_nano.described import collate_described, describe_samples, target_logits
from pretrain_nano.language import language_config, make_tokenizer
from pretrain_nano.settings import LanguagePretraining


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_TOKENIZER_DOCUMENTS", 40)
        return make_tokenizer(LanguagePretraining(vocabulary=500))


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(language_config(tokenizer)).eval()


def documents(*, maps: bool, number: int) -> list[Document]:
    found = (write_document(1, index) for index in range(200))
    return [one for one in found if one.records and one.description.is_map is maps][:number]


def alone(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, document: Document
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return log-probabilities and labels of each record, read by itself without any mask."""
    table = model.get_input_embeddings().weight
    described = [
        table[tokenizer(words, add_special_tokens=False)["input_ids"]].sum(0)
        if document.description.is_map
        else table[tokenizer(words, add_special_tokens=False)["input_ids"]]
        for words in document.description.words
    ]
    middle = torch.stack(described) if document.description.is_map else described[0]
    found = []
    for record in document.records:
        sample = tokenize(record, tokenizer, document.template)
        (slot,) = sample.image_slots
        assert sample.input_ids[slot] == IMAGE_TOKEN_INDEX
        ids = torch.tensor(sample.input_ids)
        embedded = torch.cat([table[ids[:slot]], middle, table[ids[slot + 1 :]]])
        logits = model(inputs_embeds=embedded[None], use_cache=False).logits[0]
        wanted = torch.tensor(sample.targets[slot + 1 :]).nonzero()[:, 0]
        places = wanted + slot + len(middle) - 1
        found.append((logits[places].log_softmax(-1), ids[slot + 1 :][wanted]))
    return found


@pytest.mark.parametrize("maps", [True, False])
@torch.no_grad()
def test_rows_predict_what_each_record_alone_does(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, maps: bool
) -> None:
    chosen = documents(maps=maps, number=5)
    described = [describe_samples(document, tokenizer) for document in chosen]
    batch = collate_described(described, pack_length=700)
    rows = batch.batch.input_ids_rt.shape[0]
    assert rows < sum(len(one.samples) for one in described), "records share rows"
    together = target_logits(model, batch).log_softmax(-1)
    expected = [pair for document in chosen for pair in alone(model, tokenizer, document)]
    labels = torch.cat([label for _, label in expected])
    assert sorted(batch.labels_s.tolist()) == sorted(labels.tolist())
    loss = -together.gather(1, batch.labels_s[:, None]).mean()
    separate = -torch.cat([log_p.gather(1, label[:, None]) for log_p, label in expected]).mean()
    assert loss.item() == pytest.approx(separate.item(), abs=2e-5)


def test_records_that_begin_alike_share_the_description(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for document in documents(maps=True, number=30):
        described = describe_samples(document, tokenizer)
        assert len(described.samples) == len(document.records)
        assert len(described.description) == 64
        assert all(len(words) > 1 for words in described.description)
        batch = collate_described([described], pack_length=0)
        behind = document.records[0].turns[0].text.endswith("\n<image>")
        written = len(document.records) if behind else 1
        assert len(batch.batch.images) == written
        assert batch.batch.image_mask_rt.sum() == len(batch.offsets) == 64 * written
        assert described.length == 64 * written + sum(
            len(one.input_ids) - 1 - (0 if behind or number == 0 else one.image_slots[0])
            for number, one in enumerate(described.samples)
        )


def test_nothing_may_be_described(tokenizer: PreTrainedTokenizerFast) -> None:
    (document,) = documents(maps=True, number=1)
    nothing = msgspec.structs.replace(document.description, words=())
    described = describe_samples(msgspec.structs.replace(document, description=nothing), tokenizer)
    batch = collate_described([described], pack_length=0)
    assert described.description == ()
    assert not batch.batch.image_mask_rt.any()
    assert batch.words.tolist() == batch.offsets.tolist() == []
