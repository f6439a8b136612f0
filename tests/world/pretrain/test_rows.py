from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from laterna.data.masking import tokenise
from laterna.records import PICTURE_TOKEN
from laterna.world.pretrain import language
from laterna.world.pretrain.corpus import Document, write_document
from laterna.world.pretrain.language import language_config, make_tokenizer, target_logits
from laterna.world.pretrain.rows import Group, collate_groups, groups_of
from laterna.world.pretrain.settings import LanguagePretraining


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
        sample = tokenise(record, tokenizer, document.template)
        (slot,) = sample.picture_slots
        assert sample.input_ids[slot] == PICTURE_TOKEN
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
    groups = [group for document in chosen for group in groups_of(document, tokenizer)]
    batch = collate_groups(groups, row_tokens=700)
    assert batch.position_ids_rt.shape[0] < len(groups), "groups share rows"
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
        groups = groups_of(document, tokenizer)
        behind = document.records[0].turns[0].text.endswith("\n<image>")
        assert len(groups) == (len(document.records) if behind else 1)
        assert sum(len(group.tails) for group in groups) == len(document.records)
        for group in groups:
            squares = [words for words in group.opening if len(words) > 1]
            assert len(squares) == 64


def test_a_group_longer_than_a_row_has_one_to_itself() -> None:
    long = Group(opening=((5,),) * 9, tails=(((6, 7), (False, True)),))
    short = Group(opening=((5,),), tails=(((6, 7), (True, True)),))
    batch = collate_groups([short, long, short], row_tokens=6)
    assert batch.position_ids_rt.shape == (2, 11)
    assert batch.position_ids_rt[1].tolist() == [0, 1, 2, 0, 1, 2] + [0] * 5
    assert batch.group_rt[1].tolist() == [1, 1, 1, 2, 2, 2] + [0] * 5
    assert batch.record_rt[1].tolist() == [0, 1, 1, 0, 1, 1] + [0] * 5
    # long: 7 from the 6 before it; short: both, the first from the end of the opening
    assert batch.predicting_s.tolist() == [9, 11, 12, 14, 15]
    assert batch.labels_s.tolist() == [7, 6, 7, 6, 7]
