from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from laterna.errors import LaternaError
from laterna.records import Message, Reply
from laterna.synthesis.settings import Endpoint
from laterna.synthesis.teachers.local import LocalTeacher, local_identity

WORDS = ["<unk>", "</s>", "user", "assistant", "dog", "kite", "a", "sees", ":"]
CHAT = (Message(role="user", content="a dog sees a kite"),)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model of random weights with a tokenizer of nine words."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(WORDS), num_hidden_layers=2, eos_token_id=1, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def ask(endpoint: Endpoint) -> Reply:
    async def run() -> Reply:
        teacher = LocalTeacher(endpoint, lambda: None)
        reply = await teacher.complete(CHAT)
        await teacher.close()
        return reply

    return asyncio.run(run())


def test_a_model_in_this_process_answers(model_folder: Path) -> None:
    endpoint = Endpoint(model=str(model_folder), max_tokens=5)
    reply = ask(endpoint)
    assert set(reply.text.split()) <= set(WORDS)
    # user : a dog sees a kite assistant :
    assert reply.usage.prompt_tokens == 9
    assert 1 <= reply.usage.completion_tokens <= 5
    assert reply.finish_reason == ("length" if reply.usage.completion_tokens == 5 else "stop")
    assert ask(endpoint).text == reply.text


def test_a_drawn_reply_depends_on_its_prompt_alone(model_folder: Path) -> None:
    endpoint = Endpoint(model=str(model_folder), max_tokens=12, temperature=2.0)
    assert ask(endpoint).text == ask(endpoint).text


def test_the_identity_is_the_models_not_the_places(model_folder: Path) -> None:
    here = local_identity(Endpoint(model=str(model_folder), temperature=0.5, max_tokens=5))
    assert here.model.startswith(model_folder.name)
    assert str(model_folder.parent) not in msgspec.json.encode(here).decode()
    assert {name: bytes(value) for name, value in here.parameters.items()} == {
        "temperature": b"0.5",
        "max_tokens": b"5",
    }


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="no model there"):
        local_identity(Endpoint(model=str(tmp_path / "none")))
    with pytest.raises(LaternaError, match="no model there"):
        local_identity(Endpoint())
    with pytest.raises(LaternaError, match="cannot be loaded as a language model"):
        ask(Endpoint(model=str(tmp_path)))
