from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, LlamaForCausalLM

from laterna.errors import LaternaError
from pretrain_nano import language
from pretrain_nano.encoder_decoder import (
    collate_readings,
    from_llama,
    pretrain_encoder_decoder,
    readings,
    target_logits,
)
from pretrain_nano.language import Documents, language_config, make_tokenizer
from pretrain_nano.measure import said
from pretrain_nano.settings import EncoderDecoderPretraining, LanguagePretraining

TINY = LanguagePretraining(steps=2, step_tokens=900, vocabulary=400, pack_length=256)
SETTINGS = EncoderDecoderPretraining(steps=2, answers=6, documents=TINY)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that has learned nothing, with its tokenizer."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_TOKENIZER_DOCUMENTS", 40)
        tokenizer = make_tokenizer(TINY)
    torch.manual_seed(0)
    LlamaForCausalLM(language_config(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_the_first_word_is_the_one_that_the_language_model_would_say(begun: Path) -> None:
    """Where positions say nothing and only one layer looks at one token, both compute the same."""
    llama = LlamaForCausalLM.from_pretrained(begun).eval()
    model = from_llama(llama, (0, 3)).eval()
    ids = torch.tensor([[7]])
    states = model.encoder(input_ids=ids).last_hidden_state
    torch.testing.assert_close(
        states, llama.model(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-4
    )
    assert [len(model.encoder.block), len(model.decoder.block)] == [4, 2]
    lasting = llama.model.layers[3].mlp.up_proj.weight
    assert torch.equal(model.decoder.block[1].layer[2].DenseReluDense.wi_1.weight, lasting)
    assert model.lm_head.weight is model.shared.weight


def test_every_distance_within_an_image_has_a_bias_of_its_own(begun: Path) -> None:
    model = from_llama(LlamaForCausalLM.from_pretrained(begun), (0, 3))
    attention, config = model.encoder.block[0].layer[0].SelfAttention, model.config
    distances = torch.arange(-63, 64)
    buckets = attention._relative_position_bucket(
        distances,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
    )
    assert len(set(buckets.tolist())) == 127


def test_readings_are_single_answers_in_equal_shares(begun: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(begun)
    documents = next(iter(Documents(tokenizer, TINY)))
    pairs = readings(documents, 9)
    assert len(pairs) == 9
    shares = [sum(one is described for described, _ in pairs) for one in documents]
    assert max(shares) - min(shares) <= 1
    for described, sample in pairs:
        whole = next(one for one in described.samples if one.id == sample.id)
        learned = [place for place, target in enumerate(sample.targets) if target]
        assert learned == list(range(learned[0], learned[-1] + 1)), "one answer"
        assert all(whole.targets[place] for place in learned)
        assert learned[-1] + 1 == len(whole.targets) or not whole.targets[learned[-1] + 1]


@torch.no_grad()
def test_answers_in_a_batch_are_those_alone(begun: Path) -> None:
    """Descriptions stand in the places of images, each behind its own words."""
    tokenizer = AutoTokenizer.from_pretrained(begun)
    model = from_llama(LlamaForCausalLM.from_pretrained(begun), (0, 3)).eval()
    documents = next(iter(Documents(tokenizer, TINY)))
    pairs = readings(documents, 5)
    together, labels = target_logits(model, collate_readings(pairs))
    alone = [target_logits(model, collate_readings([pair])) for pair in pairs]
    assert torch.equal(labels, torch.cat([own for _, own in alone]))
    torch.testing.assert_close(together, torch.cat([own for own, _ in alone]), atol=1e-4, rtol=1e-4)


def test_it_learns_and_is_written_with_its_tokenizer(begun: Path, tmp_path: Path) -> None:
    out = tmp_path / "t5"
    figures = pretrain_encoder_decoder(begun, SETTINGS, out)
    assert figures["step"] == 2
    assert 4.0 < figures["loss"] < 9.0, "ln 400 is 6.0"
    model = AutoModelForSeq2SeqLM.from_pretrained(out)
    assert model.dtype == torch.float16
    assert (out / "tokenizer.json").read_text() == (begun / "tokenizer.json").read_text()
    # Two steps at the rate of the other weights would move a bias by 0.004 at most.
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.detach()
    assert bias.shape == (256, 6) and float(bias.abs().max()) > 0.01
    still = msgspec.structs.replace(SETTINGS, lr=0.0)
    pretrain_encoder_decoder(begun, still, tmp_path / "still")
    kept = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "still").float()
    fresh = from_llama(LlamaForCausalLM.from_pretrained(begun), (0, 3))
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    first, trained = (one.state_dict()[name].float() for one in (kept, model))
    torch.testing.assert_close(first, fresh.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert float((trained - first).abs().max()) > 1e-3


def test_a_folder_without_a_language_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=f"{tmp_path}: cannot read the tokenizer"):
        pretrain_encoder_decoder(tmp_path, SETTINGS, tmp_path / "out")


def test_what_it_says_is_compared_answer_by_answer(begun: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(begun)
    model = from_llama(LlamaForCausalLM.from_pretrained(begun), (0, 3)).eval()
    (described, *_) = next(iter(Documents(tokenizer, TINY)))
    found = said(model, described)
    assert len(found) == len(described.samples)
    assert not any(found), "it knows nothing"
