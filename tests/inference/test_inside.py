"""What stands inside the network: attention, the nearest words of a token, the words of a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.explain import GENERIC_QUESTION
from laterna.inference.inside import attention_rows, layer_words, nearest_words
from laterna.model.vlm import VisionLanguageModel

from .conftest import NOISE, QUESTION, Constant

tensor = torch.tensor


def test_attention_rows_sum_to_one_and_are_the_eager_models(sighted: VisionLanguageModel) -> None:
    language = sighted.language
    embeds_1td = torch.randn(1, 11, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows_nt = attention_rows(language, embeds_1td, 3)
        assert language.config._attn_implementation == "sdpa"
        language.set_attn_implementation("eager")
        whole = language(inputs_embeds=embeds_1td, output_attentions=True).attentions
    expected = torch.stack([layer[0].mean(0) for layer in whole]).mean(0)[-3:]
    torch.testing.assert_close(rows_nt, expected)
    torch.testing.assert_close(rows_nt.sum(1), torch.ones(3))
    assert bool((rows_nt[0, 9:] == 0).all())  # nobody looks ahead


def test_relative_attention_is_one_where_the_question_is_the_general_one(
    sighted: VisionLanguageModel,
) -> None:
    assistant = Assistant(sighted)
    same = assistant.explain(NOISE, GENERIC_QUESTION, "It is red.", ("attention",)).attention
    assert same is not None
    torch.testing.assert_close(tensor(same.tokens[0]), torch.ones(4, 4))
    torch.testing.assert_close(tensor(same.tokens).mean(0), tensor(same.overall))
    other = assistant.explain(NOISE, QUESTION, "It is red.", ("attention",)).attention
    assert other is not None
    assert float((tensor(other.tokens[0]) - 1).abs().max()) > 1e-3


def test_a_words_own_embedding_is_found(sighted: VisionLanguageModel) -> None:
    table_vd = sighted.language.get_input_embeddings().weight.detach()
    names = [" bicycle", " apples", " red", " table"]
    ids = [sighted.tokenizer.encode(name)[0] for name in names]
    placed = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    cells = [0, 5, 10, 15]
    placed[cells] = table_vd[ids] * 3  # length does not matter
    sighted.connector = Constant(placed)
    found = Assistant(sighted).explain(NOISE, QUESTION, "Red.", ("words",)).words
    assert found is not None
    flat = [cell for row in found.words for cell in row]
    for cell, token in zip(cells, ids, strict=True):
        assert len(flat[cell]) == 3
        word, score = flat[cell][0]
        assert word == sighted.tokenizer.decode([token]).strip()
        assert score == pytest.approx(1, abs=1e-5)
    special = set(sighted.tokenizer.all_special_tokens)
    assert not special & {word for cell in flat for word, _ in cell}
    bos = table_vd[sighted.tokenizer.bos_token_id]
    assert nearest_words(sighted, bos[None], 1)[0][0][0] not in special


def test_the_lens_behind_the_last_layer_is_the_models_output(sighted: VisionLanguageModel) -> None:
    embeds_1td = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layers = list(layer_words(sighted, embeds_1td, slice(2, 5), 500))
        logits_tv = sighted.language(inputs_embeds=embeds_1td).logits[0]
    assert len(layers) == 2
    special = sighted.tokenizer.all_special_ids
    probabilities_tv = logits_tv.softmax(-1).index_fill(1, tensor(special), -torch.inf)
    for place in range(3):
        scores = [score for _, score in layers[1][place]]
        best = probabilities_tv[place + 2].sort(descending=True).values
        torch.testing.assert_close(tensor(scores), best)
    assert layers[0] != layers[1]
    found = Assistant(sighted).explain(NOISE, QUESTION, "Red.", ("lens",)).lens
    assert found is not None
    assert [(len(one), len(one[0]), len(one[0][0])) for one in found.layers] == [(4, 4, 3)] * 2


def test_a_model_without_attention_weights_is_named(sighted: VisionLanguageModel) -> None:
    class Recurrent(nn.Module):
        config = type("Config", (), {"model_type": "recurrent"})

        def set_attn_implementation(self, name: str) -> None:
            raise ValueError(f"{name}: not here")

        def forward(self, **_: object) -> object:
            return type("Output", (), {"past_key_values": None})

    with pytest.raises(LaternaError, match="a language model of type 'recurrent'"):
        attention_rows(Recurrent(), torch.zeros(1, 4, 8), 2)
