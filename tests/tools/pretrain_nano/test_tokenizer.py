from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from pretrain_nano.corpus import write_document
from pretrain_nano.tokenizer import train_tokenizer


def trained() -> PreTrainedTokenizerFast:
    documents = (write_document(1, index) for index in range(60))
    texts = ("\n".join(t.text for r in doc.records for t in r.turns) for doc in documents)
    return train_tokenizer(texts, 400)


def test_training_gives_the_same_tokenizer_and_room_for_every_byte() -> None:
    tokenizer = trained()
    assert len(tokenizer) == 400
    assert trained().get_vocab() == tokenizer.get_vocab()
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>"]) == [0, 1, 2]
    text = "A red dog.\nÄrger, 漢字 🧸 and  two  blanks"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_the_chat_template_is_vicunas_without_its_system_prompt() -> None:
    chat = [
        {"role": "user", "content": "Is there a dog?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Where?"},
    ]
    tokenizer = trained()
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered == "<s>USER: Is there a dog? ASSISTANT: Yes</s>USER: Where? "
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == rendered + "ASSISTANT:"
    system = [{"role": "system", "content": "Be brief."}, chat[0]]
    rendered = tokenizer.apply_chat_template(system, tokenize=False)
    assert rendered == "<s>Be brief. USER: Is there a dog? "
