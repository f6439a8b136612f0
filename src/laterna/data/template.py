"""Chat templates: which there are, how one is rendered, and which tokens no words may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from jinja2 import TemplateError, TemplateSyntaxError

from laterna.errors import LaternaError
from laterna.recipe import ImagePosition
from laterna.records import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FOLDER = Path(__file__).parent / "templates"
SHIPPED_TEMPLATES: dict[str, Path] = {
    "plain": _FOLDER / "plain.jinja",
    "vicuna_v1": _FOLDER / "vicuna_v1.jinja",
    "llama_2": _FOLDER / "llama_2.jinja",
    "openflamingo": _FOLDER / "openflamingo.jinja",
    "bare": _FOLDER / "bare.jinja",
}

IMAGE_FIRST = """\
{%- set mark = image_mark or '<image>' -%}
{%- set moved = namespace(turns=[]) -%}
{%- for turn in messages -%}
  {%- set said = turn['content'] -%}
  {%- if turn['role'] == 'user' and said is string and said.count(mark) == 1 -%}
    {%- set said = (mark + '\\n' + said.replace(mark, '').strip()).strip() -%}
    {%- set moved.turns = moved.turns + [{'role': 'user', 'content': said}] -%}
  {%- else -%}
    {%- set moved.turns = moved.turns + [turn] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = moved.turns -%}
"""
"""What `image_first` does, as the beginning of a chat template."""


ENDS = {"openflamingo": "<|endofchunk|>"}
"""By shipped template, the token that ends its texts where the tokenizer has it."""
_ENDED_BY_EOS = "{%- set end = eos_token -%}\n"
"""Begins such a template for a tokenizer without the token."""


class UnusableError(LaternaError):
    """One record that cannot be used. `reason` is the same for every record with that fault."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def load_template(
    name: str, tokenizer: PreTrainedTokenizerBase, image_position: ImagePosition = "keep"
) -> str:
    """Return the Jinja text of a chat template: `own` (the tokenizer's) or a shipped one.

    Of several of a tokenizer's, `own` is the one that it calls default, which has no tools. With
    `image_position` "first" the text moves an image's mark to the front of its turn by itself, so
    whatever renders it (training, serving, an exported folder) does the same. Raises LaternaError
    for an unknown name, and for `own` where the tokenizer has none.
    """
    text = _template_text(name, tokenizer)
    return IMAGE_FIRST + text if image_position == "first" else text


def is_plain(template: str) -> bool:
    """Say whether a template is the shipped `plain`, moved marks or not."""
    plain = SHIPPED_TEMPLATES["plain"].read_text(encoding="utf-8")
    return template in (plain, IMAGE_FIRST + plain)


def image_first(words: str, mark: str) -> str:
    """Move the mark of a user's turn to its front, a line break behind it, as LLaVA's
    `preprocess_multimodal` does before training. Several marks stay where they stand.
    """
    if words.count(mark) != 1:
        return words
    return f"{mark}\n{words.replace(mark, '').strip()}".strip()


def _template_text(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if name in SHIPPED_TEMPLATES:
        text = SHIPPED_TEMPLATES[name].read_text(encoding="utf-8")
        lacks = name in ENDS and ENDS[name] not in tokenizer.get_vocab()
        return _ENDED_BY_EOS + text if lacks else text
    known = ", ".join(SHIPPED_TEMPLATES)
    if name != "own":
        raise LaternaError(f"unknown chat template {name!r}; known are: own, {known}")
    if not tokenizer.chat_template:
        raise LaternaError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template; "
            f"set `template` to one of: {known}"
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise LaternaError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has several chat "
            f"templates, {names}, and no default; set `template` to one of: {known}"
        )
    return str(tokenizer.get_chat_template())


_BROKEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a template's own faults raise beside Jinja's errors, such as a range that is too long."""


class Renderer:
    """A tokenizer's renderer with one template; it checks nothing and looks for no answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, image_mark: str) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.image_mark = image_mark

    def text(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        """Render turns; `prompt` asks for the opening of an assistant's turn at the end."""
        return self.texts([turns], prompt=prompt)[0]

    def prompt(self, turns: Sequence[Turn]) -> str:
        """Render turns with the opening of an assistant's turn behind them."""
        return self.text(turns, prompt=True)

    def texts(self, chats: Sequence[Sequence[Turn]], *, prompt: bool) -> list[str]:
        """Render several chats at once, which is a little faster.

        Raises UnusableError where the template refuses one of them, and LaternaError for a template
        that is no Jinja.
        """
        if not chats:
            return []
        messages = [[{"role": turn.role, "content": turn.text} for turn in chat] for chat in chats]
        try:
            return list(
                self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    image_mark=self.image_mark,
                )
            )
        except TemplateSyntaxError as error:
            raise LaternaError(f"the chat template is not valid Jinja: {error}") from error
        except (TemplateError, *_BROKEN) as error:
            message = f"the chat template refuses the turns: {error}"
            raise UnusableError("the template refuses the turns", message) from error


_patterns: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, re.Pattern[str]]] = (
    WeakKeyDictionary()
)


def special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a pattern that matches any special token of a tokenizer, the longest first."""
    size, pattern = _patterns.get(tokenizer, (-1, re.compile("")))
    if size != len(tokenizer):
        added = tokenizer.added_tokens_decoder.values()
        tokens = {token.content for token in added if token.special}
        tokens.update(tokenizer.all_special_tokens)
        pattern = any_of(tokens)
        _patterns[tokenizer] = (len(tokenizer), pattern)
    return pattern


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the tokens, the longest first; of none, nothing."""
    by_first: dict[str, list[str]] = {}  # some tokenizers have thousands
    for token in sorted(filter(None, tokens), key=lambda token: (-len(token), token)):
        by_first.setdefault(token[0], []).append(re.escape(token[1:]))
    groups = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items())
    return re.compile("|".join(groups) or "(?!)")
