"""The look at what a model saw; and the page by keyboard, in every colour, on a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import COLUMNS, ROWS, Stub, data_url, png, until

Opened, Ask = Callable[..., Any], Callable[..., None]
TABS = """() => document.activeElement === document.body ? null
  : document.activeElement.id || document.activeElement.className
    || document.activeElement.textContent"""
SHOWN = """() => {
  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
  const composer = getComputedStyle(document.querySelector("#composer")).boxShadow;
  return document.activeElement.id === "question" ? composer !== "none"
    : outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
}"""
FOCUSABLE = """() => [...document.querySelectorAll(
  "a, button, summary, select, textarea, input, [tabindex='0']")].filter((node) =>
  node.checkVisibility({ visibilityProperty: true }) && !node.closest("[hidden]")).length"""
# Every text with its contrast against what it stands on: [text, ratio, ratio that AA asks].
CONTRAST = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const read = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) =>
    [0, 1, 2].map((part) => top[part] * top[3] + under[part] * (1 - top[3])).concat(1);
  const luminance = (color) => color.slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, part) => sum + one * [0.2126, 0.7152, 0.0722][part], 0);
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const grounds = (node) => {  // the colors that may lie under it: several in a gradient
    if (!node) return [[255, 255, 255, 1]];
    const { backgroundColor, backgroundImage } = getComputedStyle(node);
    const colors = backgroundImage.match(/(rgba?|color)\\([^)]*\\)/g) ?? [backgroundColor];
    return colors.map(read).flatMap((color) =>
      color[3] === 1 ? [color] : grounds(node.parentElement).map((under) => over(color, under)));
  };
  const found = [];
  const note = (text, color, node, least) => found.push([text, Math.min(...grounds(node)
    .map((under) => contrast(over(read(color), under), under))), least]);
  for (const node of document.querySelectorAll("body *")) {
    const seen = node.checkVisibility({ visibilityProperty: true });
    if (!seen || node.closest("canvas, svg, option")) continue;
    const style = getComputedStyle(node);
    const own = [...node.childNodes].filter((one) => one.nodeType === 3 && one.data.trim());
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (own.length) note(own[0].data.trim(), style.color, node, large ? 3 : 4.5);
    if (node.matches("input, textarea, select")) {
      note(`value of ${node.id || node.name}`, style.color, node, 4.5);
      if (node.placeholder) {
        note(node.placeholder, getComputedStyle(node, "::placeholder").color, node, 4.5);
      }
      if (node.type !== "checkbox" && style.borderTopWidth !== "0px" && node.id !== "model") {
        note(`border of ${node.name}`, style.borderTopColor, node.parentElement, 3);
      }
    }
    if (node.matches("#composer, #new-chat")) {
      note(`border of ${node.id}`, style.borderTopColor, node.parentElement, 3);
    }
  }
  return found;
}"""


def poor(page: Any) -> list[Any]:
    found = page.evaluate(CONTRAST)
    assert len(found) > 5
    return [one for one in found if one[1] < one[2]]


def alpha(page: Any, row: int, column: int) -> int:
    """How dark the overlay is in the middle of a patch, from 0 to 255."""
    value: int = page.evaluate(
        """([y, x]) => { const canvas = document.querySelector("#seen canvas");
        return canvas.getContext("2d")
          .getImageData(canvas.width * x, canvas.height * y, 1, 1).data[3]; }""",
        [(row + 0.5) / ROWS, (column + 0.4) / COLUMNS],
    )
    return value


@pytest.fixture
def looking(stub: Stub, opened: Opened, ask: Ask) -> Any:
    page = opened(stub.url)
    ask(page, "What?", png("red"), png("blue"))
    page.click("text=Look closer")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    return page


@pytest.mark.parametrize(
    ("drop", "dark", "said", "at_first"),
    [
        (0.0002, 0.5, "by 0.00040 at most; blue: raises it. So little that", "0.00020"),
        (0.02, 0.5, "by 0.040 at most; blue: raises it.", "0.020"),
        (1e-7, 1.0, "Lit by nothing: hiding any one place does not lower", "0"),
    ],
)
def test_a_small_drop_is_lit_and_said(
    stub: Stub, opened: Opened, ask: Ask, drop: float, dark: float, said: str, at_first: str
) -> None:
    """An answer that the model is sure of hangs on its image too."""
    stub.drop = drop
    page = opened(stub.url)
    ask(page, "What?", png("red"))
    page.click("text=Look closer")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    whole = 255 * 0.84
    assert alpha(page, 0, 0) == pytest.approx(whole * dark, abs=4)
    assert alpha(page, 1, 2) == pytest.approx(0 if dark < 1 else whole, abs=6)
    assert said in page.text_content("#legend")
    assert ("So little" in page.text_content("#legend")) == (drop == 0.0002)
    page.hover("#seen", position={"x": 5, "y": 5})
    assert page.text_content("#cell") == f"Row 1, column 1: {at_first}"


def test_light_falls_on_what_a_token_hangs_on(looking: Any, stub: Stub) -> None:
    page = looking
    first = stub.explained[0]
    assert first["messages"][-1] == {"role": "assistant", "content": "A red box 1."}
    assert (first["image"], first["methods"], first["window"]) == (1, [], 1)
    assert (stub.explained[1]["methods"], stub.explained[1]["window"]) == (["occlusion"], 2)
    page.select_option("#look-window select", "1")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    assert (stub.explained[2]["methods"], stub.explained[2]["window"]) == (["occlusion"], 1)
    assert page.get_attribute("#seen img", "src") == data_url(png("green"))
    # the whole answer: the last patch fully lit, the first half, the others dark
    dark = round(255 * 0.84)
    assert (alpha(page, 1, 2), alpha(page, 0, 1)) == (0, dark)
    assert alpha(page, 0, 0) == pytest.approx(dark / 2, abs=2)
    assert "by 2.00 at most" in page.text_content("#legend")
    page.hover("#strip [data-index='0']")
    assert (alpha(page, 0, 0), alpha(page, 1, 2)) == (0, dark)
    assert page.text_content("#strip-figure") == "“A”: probability 60.7 %"
    page.hover("#strip [data-index='1']")
    assert alpha(page, 1, 2) == 0
    # the token stays while the pointer goes to a patch
    page.hover("#seen", position={"x": 5, "y": 5})
    assert page.text_content("#cell") == "Row 1, column 1: −2.00"
    assert page.text_content("#prompt pre") == "USER: <image>\nWhat?\nASSISTANT: "


def test_other_methods_are_asked_for_when_they_are_wanted(looking: Any, stub: Stub) -> None:
    page = looking
    page.click("text=Words")
    until(page, "document.querySelector('#legend').textContent.startsWith('Words')")
    assert stub.explained[-1]["methods"] == ["words"]
    page.focus("#seen")
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.text_content("#cell") == "Row 2, column 2: word11 0.50, near 0.25, far −0.13"
    page.click("text=Attention")
    until(page, "document.querySelector('#legend').textContent.includes('Layer 3.')")
    assert "from 0.00 (dark) to 2.00" in page.text_content("#legend")
    assert alpha(page, 1, 2) == 0
    asked = len(stub.explained)
    page.click("#look-methods >> text=Occlusion")
    assert page.text_content("#cell") == "Row 2, column 2: 0"
    assert len(stub.explained) == asked
    page.click("#look-methods >> text=Image")
    page.uncheck("#look-grid")
    assert alpha(page, 0, 1) == 0
    page.click("#look-images button")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    assert stub.explained[-1]["image"] == 0


def test_a_server_that_does_not_explain_says_so(stub: Stub, opened: Opened, ask: Ask) -> None:
    stub.explains = False
    page = opened(stub.url)
    ask(page, "What?")
    assert page.locator("text=Look closer").count() == 0  # there is no image to look at
    ask(page, "What?", png())
    page.click("text=Look closer")
    until(page, "document.querySelector('#look-state').textContent.includes('no /v1/explain')")
    assert page.is_hidden("#look-body")
    page.click("#look-close")
    assert page.locator(".look").first.is_hidden()


def test_everything_is_reached_by_keyboard(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url)
    page.keyboard.type("What is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("it?")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.answer')?.dataset.state === 'ended'")
    assert stub.asked[0]["messages"][0]["content"] == "What is\nit?"
    ask(page, "And this?", png())
    page.keyboard.press("Escape")
    page.focus(".skip")
    reached: list[str] = []
    while (name := page.evaluate(TABS)) and len(reached) < 99:
        reached.append(name)
        page.keyboard.press("Tab")
        assert name == "skip" or page.evaluate(SHOWN) or not page.evaluate(TABS), reached
    assert len(reached) == page.evaluate(FOCUSABLE)
    assert {"skip", "model", "theme", "show-settings", "new-chat", "question", "send"} <= {*reached}
    # the answer's tokens, and the look
    page.focus("li:nth-child(4) .text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "·red" in page.text_content("#card")
    page.focus("li:nth-child(4) .look")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    assert page.evaluate(TABS) == "look-close"
    page.focus("#strip")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#strip-figure") == "“·box”: probability 77.9 %"
    page.keyboard.press("Escape")
    assert page.is_hidden("#look")
    assert page.evaluate("document.activeElement.textContent") == "Look closer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_meets_wcag_aa(scheme: str, stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url, color_scheme=scheme)
    assert poor(page) == []
    ask(page, "What?", png())
    ask(page, "busy")
    page.hover("li:nth-child(2) [data-index='1']")
    page.click("#export summary")
    assert poor(page) == []
    page.keyboard.press("Escape")
    page.click("text=Look closer >> nth=0")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    page.click("#prompt summary")
    page.hover("#strip [data-index='1']")
    page.click("[aria-label='Edit this question'] >> nth=0")
    assert poor(page) == []
    page.click("#show-settings")
    page.wait_for_timeout(50)
    assert poor(page) == []
    page.keyboard.press("Escape")
    # the measure itself: grey on grey is found
    page.evaluate("""() => { document.querySelector("h1").style.color = "#777"; }""")
    assert [text for text, *_ in poor(page)] == ["Laterna"]


def test_dark_follows_the_system_until_it_is_chosen(stub: Stub, opened: Opened) -> None:
    page = opened(stub.url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 19, 26)"
    page.emulate_media(color_scheme="light")
    until(page, f"{ground} === 'rgb(250, 246, 238)'")
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(20, 19, 26)"
    page.reload()
    until(page, f"{ground} === 'rgb(20, 19, 26)'")
    page.click("#show-settings")
    page.select_option("#settings [name=theme]", "auto")
    assert page.evaluate(ground) == "rgb(250, 246, 238)"


def test_a_phone_shows_all_of_it(stub: Stub, opened: Opened, ask: Ask) -> None:
    page = opened(stub.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    wide = "document.documentElement.scrollWidth"
    ask(page, "What? " + "long" * 60, png(size=(400, 30)))
    assert page.evaluate(wide) == 360
    outside = """() => [...document.querySelectorAll("button, summary, label")].filter(
      (node) => { const { left, right } = node.getBoundingClientRect();
      return node.checkVisibility() && (left < 0 || right > 360); }).map((node) => node.id)"""
    assert page.evaluate(outside) == []
    assert page.is_hidden("#chats")
    page.tap("#show-chats")
    page.tap("#new-chat")
    assert page.is_hidden("#chats") and page.is_visible("#stage")
    assert page.evaluate(wide) == 360
    page.tap("#show-chats")
    page.tap("#chat-list .title")
    page.tap("text=Look closer")
    until(page, "document.querySelector('#legend').textContent.startsWith('Lit')")
    assert page.evaluate("document.querySelector('main').inert")
    page.tap("#strip [data-index='1']")
    assert "box" in page.text_content("#strip-figure")
    assert page.evaluate(outside) == []
    page.tap("#look-close")
    assert not page.evaluate("document.querySelector('main').inert")
