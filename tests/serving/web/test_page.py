"""The page in a browser, before a stub of the API: what it asks, keeps and shows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import MARKUP, Stub, data_url, png, until

Opened, Ask = Callable[..., Any], Callable[..., None]
PASTE = """([kind, content, name, type]) => {
  const bytes = Uint8Array.from(atob(content.split(",")[1]), (one) => one.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { clipboardData: carried, bubbles: true })
    : new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
  document.querySelector("#question").dispatchEvent(event);
}"""


def answers(page: Any) -> list[str]:
    found: list[str] = page.locator(".answer .text").all_text_contents()
    return found


def test_an_answer_streams_with_its_tokens_and_seconds(
    stub: Stub, opened: Opened, ask: Ask
) -> None:
    page = opened(stub.url)
    ask(page, "What is it?", png("red"), png("blue"))
    assert answers(page) == ["A red box 1."]
    body = stub.asked[0]
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(png("red"))}},
                {"type": "image_url", "image_url": {"url": data_url(png("blue"))}},
                {"type": "text", "text": "What is it?"},
            ],
        }
    ]
    assert (body["model"], body["stream"], body["logprobs"]) == ("stub", True, True)
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.2, 1, 512)
    assert "seed" not in body
    figures = page.text_content(".figures")
    assert figures.startswith("3 tokens · 0.") and figures.endswith(" · prompt 12")
    assert page.text_content("#live") == "A red box 1."
    # the probability of a token under the pointer
    page.hover(".answer [data-index='1']")
    rows = page.locator("#card li").all_text_contents()
    assert rows == ["·red97.0 %", "·blue3.0 %"]
    page.hover("#question")
    assert page.is_hidden("#card")


def test_later_turns_bring_the_earlier_ones_and_new_images(
    stub: Stub, opened: Opened, ask: Ask
) -> None:
    page = opened(stub.url)
    ask(page, "One?", png("red"))
    ask(page, "Two?", png("blue"))
    assert [one["role"] for one in stub.asked[1]["messages"]] == ["user", "assistant", "user"]
    assert stub.asked[1]["messages"][1]["content"] == "A red box 1."
    assert stub.asked[1]["messages"][2]["content"][0]["image_url"]["url"] == data_url(png("blue"))
    # regenerate the first: what follows goes
    page.locator(".answer").first.get_by_text("Regenerate").click()
    until(page, "document.querySelector('.answer .text').textContent.endsWith('3.')")
    assert answers(page) == ["A red box 3."]
    assert stub.asked[2]["messages"] == stub.asked[0]["messages"]
    # edit it: image and text come back, another image joins
    page.click("[aria-label='Edit this question']")
    assert page.input_value("#question") == "One?"
    ask_with = [{"name": "more.png", "mimeType": "image/png", "buffer": png("green")}]
    page.set_input_files("#files", ask_with)
    until(page, "document.querySelectorAll('#attached li').length == 2")
    ask(page, "Three?", wait=False)
    until(page, "document.querySelector('.answer .text')?.textContent.endsWith('4.')")
    parts = stub.asked[3]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[2]["text"] == "Three?"
    assert len(stub.asked[3]["messages"]) == 1
    # a cancelled edit gives back what stood there
    page.fill("#question", "half a thought")
    page.click("[aria-label='Edit this question']")
    page.keyboard.press("Escape")
    assert page.input_value("#question") == "half a thought"


def test_stop_ends_the_answer_on_the_server_too(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    ask(page, "slow", wait=False)
    page.wait_for_selector(".answer [data-index='2']")
    page.click("#stop")
    page.wait_for_selector(".answer[data-state=ended]")
    assert "stopped" in page.text_content(".figures")
    kept = answers(page)[0]
    assert kept.startswith(" word word word")
    until = time.monotonic() + 5
    while not stub.gone and time.monotonic() < until:
        time.sleep(0.02)
    assert stub.gone == 1
    # what was said stays in the chat, and Esc does the same
    ask(page, "slow", wait=False)
    page.wait_for_selector("li:nth-child(4).answer [data-index='0']")
    assert stub.asked[1]["messages"][1] == {"role": "assistant", "content": kept}
    page.keyboard.press("Escape")
    page.wait_for_selector("li:nth-child(4).answer[data-state=ended]")


def test_an_answer_goes_on_behind_another_chat(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    ask(page, "slow", wait=False)
    page.wait_for_selector(".answer [data-index='0']")
    page.click("#new-chat")
    ask(page, "other")
    assert answers(page) == ["A red box 2."]
    page.click("#chat-list button.title:has-text('slow')")
    page.wait_for_selector(".answer[data-state=coming] [data-index='4']")
    page.click("#chat-list li:has-text('slow') .remove")
    until(page, "document.querySelectorAll('#chat-list li').length == 1")
    assert page.is_visible("#stage")


def test_what_a_model_writes_is_never_markup(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    ask(page, "markup")
    assert answers(page) == [MARKUP]
    assert page.locator(".answer img, .answer script, .answer b").count() == 0
    page.hover(".answer [data-index='0']")
    assert page.locator("#card img").count() == 0
    assert page.title() == "markup · Laterna"
    page.fill("#question", "<img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    page.wait_for_selector("li:nth-child(4)[data-state=ended]")
    assert page.locator(".question img").count() == 0
    # and a script that got in all the same would not run
    page.evaluate("""() => { const script = document.createElement("script");
      script.textContent = "document.title = 'owned'"; document.body.append(script); }""")
    assert page.title() == "markup · Laterna"


def test_the_servers_own_words_are_shown(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    ask(page, "busy")
    assert page.text_content(".error") == "the queue is full Try again in 7 s."
    assert page.is_visible("text=Regenerate") and page.is_hidden("text=Copy")
    ask(page, "broken")
    assert page.locator(".error").last.text_content() == "the engine has stopped"
    assert answers(page)[-1] == "Half"
    # an unanswered question is not sent again; a half answer is
    ask(page, "And now?")
    assert [one["content"] for one in stub.asked[2]["messages"]] == ["broken", "Half", "And now?"]
    ask(page, "cut")
    assert page.locator(".error").last.text_content().startswith("The connection broke")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "Hello?")
    assert page.locator(".error").last.text_content().startswith("The server cannot be reached")


def test_a_server_without_probabilities_is_asked_without(
    stub: Stub, opened: Opened, ask: Ask
) -> None:
    stub.probabilities = False
    page = opened(stub.url)
    ask(page, "One?")
    ask(page, "Two?")
    assert answers(page) == ["A red box 2.", "A red box 3."]
    assert ["logprobs" in one for one in stub.asked] == [True, False, False]


def test_a_key_is_asked_for_and_kept_in_the_tab(stub: Stub, opened: Opened, ask: Ask) -> None:
    stub.key = "secret"
    page = opened(stub.url)
    assert page.text_content("#key-words") == "the API key is missing or wrong"
    page.fill("#key input", "wrong")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#key input').value == ''")
    page.fill("#key input", "secret")
    page.click("#key .primary")
    until(page, "document.querySelector('#model').value == 'stub'")
    ask(page, "Hi")
    assert answers(page) == ["A red box 1."]
    assert page.evaluate("JSON.stringify({...sessionStorage})") == '{"laterna.key":"secret"}'
    assert "secret" not in page.evaluate("JSON.stringify({...localStorage})")
    # the server takes another key: asked again, and the question goes through
    stub.key = "other"
    ask(page, "Again", wait=False)
    page.wait_for_selector("#key[open]")
    page.fill("#key input", "other")
    page.keyboard.press("Enter")
    page.wait_for_selector("li:nth-child(4).answer[data-state=ended]")
    assert answers(page)[1] == "A red box 3."


def test_settings_are_sent_and_kept(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    page.click("#show-settings")
    for name, value in {
        "system": "Be brief.",
        "temperature": "0.7",
        "top_p": "0.9",
        "seed": "11",
        "max_tokens": "5",
    }.items():
        page.fill(f"#settings [name={name}]", value)
    assert "100 MB" in page.text_content("#kept")
    page.click("#settings .primary")
    assert page.is_hidden("#settings")
    page.reload()
    ask(page, "Hi")
    body = stub.asked[0]
    assert {name: body[name] for name in ("temperature", "top_p", "seed", "max_tokens")} == {
        "temperature": 0.7, "top_p": 0.9, "seed": 11, "max_tokens": 5,
    }  # fmt: skip
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_images_are_pasted_and_dropped(kind: str, stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    page.evaluate(PASTE, [kind, data_url(png("red")), "a.png", "image/png"])
    page.wait_for_selector("#attached li")
    page.evaluate(PASTE, [kind, data_url(b"text"), "notes.txt", "text/plain"])
    page.wait_for_selector("#notice:visible")
    assert page.text_content("#notice") == "Not an image: notes.txt"
    page.evaluate(PASTE, [kind, data_url(png("blue")), "b.png", "image/png"])
    until(page, "document.querySelectorAll('#attached li').length == 2")
    page.click("[aria-label='Remove a.png']")
    page.keyboard.press("Enter")
    assert page.text_content("#notice") == "Write a question about the image."
    ask(page, "What?")
    assert stub.asked[0]["messages"][0]["content"][0]["image_url"]["url"] == data_url(png("blue"))


def test_history_is_kept_opened_and_deleted(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    ask(page, "First question?", png("red"))
    page.click("#new-chat")
    assert page.is_visible("#stage")
    ask(page, "slow", wait=False)
    page.wait_for_selector(".answer [data-index='0']")
    page.reload()
    page.wait_for_selector("#chat-list li:nth-child(2)")
    assert page.locator("#chat-list .title").all_text_contents() == ["slow", "First question?"]
    page.click("text=slow")  # left in the middle of its answer
    page.get_by_text("Ask again").wait_for()
    page.click("text=First question?")
    page.wait_for_selector(".question img")
    assert page.get_attribute(".question img", "src") == data_url(png("red"))
    assert answers(page) == ["A red box 1."]
    ask(page, "And now?")
    assert len(stub.asked[-1]["messages"]) == 3
    page.click("#chat-list li:has-text('First') .remove")
    until(page, "document.querySelectorAll('#chat-list li').length == 1")
    page.click("#show-settings")
    page.click("#delete-all")
    until(page, "document.querySelectorAll('#chat-list li').length == 0")


def test_a_chat_goes_on_where_nothing_can_be_kept(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    page.add_init_script("indexedDB.open = () => { throw new Error('storage is closed'); };")
    page.reload()
    ask(page, "Hi")
    ask(page, "And now?")
    assert answers(page) == ["A red box 1.", "A red box 2."]
    assert page.text_content("#history-note") == "This chat is not kept: storage is closed."


def test_history_is_bounded_in_chats_and_bytes(stub: Stub, opened: Opened) -> None:
    page = opened(stub.url)
    kept = page.evaluate("""async () => {
      const store = await import("/web/store.js");
      const chat = (number, size) => ({ id: `c${number}`, title: `${number}`, updated: number,
        messages: [{ role: "user", text: "", images: [{ name: "", data: "x".repeat(size) }] }] });
      const gone = [];
      for (let number = 0; number < 102; number += 1) gone.push(await store.save(chat(number, 10)));
      const many = (await store.list()).map((head) => head.id);
      gone.push(await store.save(chat(200, 60e6)), await store.save(chat(201, 60e6)));
      const large = (await store.list()).map((head) => head.id);
      return [gone, many.length, many[0], many.at(-1), large.length, large[0]];
    }""")
    # the second large one leaves room for small ones, but the first large one and the older go
    assert kept[0] == [0] * 100 + [1, 1] + [1, 100]
    assert kept[1:] == [100, "c101", "c2", 1, "c201"]


def test_a_chat_is_exported(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    assert page.is_hidden("#export")
    ask(page, "What is it?", png("red"))

    def exported(name: str) -> tuple[str, str]:
        page.click("#export summary")
        with page.expect_download() as download:
            page.click(name)
        return download.value.suggested_filename, Path(download.value.path()).read_text("utf-8")

    name, text = exported("#export-markdown")
    assert name == "What-is-it-.md"
    assert text == (
        f"# What is it?\n\n## Question\n\n![0.png]({data_url(png('red'))})\n\nWhat is it?\n\n"
        "## Answer\n\nA red box 1.\n"
    )
    name, text = exported("#export-json")
    found = json.loads(text)
    assert found["messages"] == [
        *stub.asked[0]["messages"],
        {"role": "assistant", "content": "A red box 1."},
    ]
    assert [one["token"] for one in found["answers"][0]["tokens"]] == ["A", " red", " box 1."]
    assert found["answers"][0]["sampling"] == {"temperature": 0.2, "top_p": 1, "max_tokens": 512}
