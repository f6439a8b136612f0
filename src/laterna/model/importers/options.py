"""What a user sets for foreign files, the recipe they become, and their chat template in ours."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from jinja2 import TemplateError

from laterna.data.chat import SHIPPED_TEMPLATES, load_template
from laterna.errors import LaternaError
from laterna.model.build import join
from laterna.model.connectors import Connector
from laterna.model.fusion import Fusion
from laterna.model.vision import VisionTower
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import (
    ConnectorSettings,
    Fit,
    FusionSettings,
    LanguageSettings,
    Recipe,
    StageSettings,
    VisionSettings,
)
from laterna.records import DEFAULT_IMAGE_TOKEN

FALLBACK_TEMPLATE = "vicuna_v1"
"""What LLaVA v1 and v1.5 were trained with; their tokenizers carry no template."""


class Options(NamedTuple):
    """Arguments of `laterna.load`; empty: as the files say."""

    language: str = ""
    vision: str = ""
    template: str = ""
    fit: str = ""

    def require_no_parts(self, source: str) -> None:
        """Raise LaternaError where parts are named that a source contains."""
        if self.language or self.vision:
            raise LaternaError(
                f"{source}: contains its language model and encoder; leave out --language and "
                "--vision"
            )

    def fit_or(self, stated: str) -> Any:
        """Return `vision.fit`; `stated` is that of the files. Raises LaternaError for another."""
        fit = self.fit or stated
        known = [name for name in get_args(Fit) if name != "anyres"]  # that is another connector
        if fit not in known:
            raise LaternaError(f"fit = {fit!r}: use one of {', '.join(known)}")
        return fit

    def template_or(self, own: str | None, tokenizer: Any) -> str:
        """Return the text of the chat template; `own` is the one that the files hold, if any."""
        if self.template in SHIPPED_TEMPLATES or (not own and not self.template):
            return load_template(self.template or FALLBACK_TEMPLATE, tokenizer)
        if self.template not in ("", "own") or not own:
            known = ", ".join(["own", *SHIPPED_TEMPLATES])
            raise LaternaError(
                f"template = {self.template!r}: use one of {known}; `own` needs files with a "
                "chat template"
            )
        return in_our_form(own, tokenizer)


class Parts(NamedTuple):
    """The parts of an imported assistant, as they were read."""

    vision: VisionTower
    connector: Connector
    language: Any
    tokenizer: Any
    fusion: Fusion | None = None
    """None: the recipe's, which has no weights."""


def assembled(
    source: str,
    parts: Parts,
    *,
    template: str,
    vision: VisionSettings,
    connector: ConnectorSettings,
    language: str,
    fusion: FusionSettings | None = None,
) -> VisionLanguageModel:
    """Join imported parts to an assistant with the recipe that describes them.

    Its stages name `unknown` data, for that is what a foreign checkpoint was trained on.
    `language` is the source of the base model.
    """
    parts.tokenizer.chat_template = template  # so that `own` is this one
    recipe = Recipe(
        name=f"imported from {source}",
        vision=vision,
        connector=connector,
        language=LanguageSettings(source=language),
        fusion=fusion or FusionSettings(),
        align=StageSettings(data="unknown"),
        instruct=StageSettings(data="unknown"),
    )
    return join(
        recipe,
        parts.vision,
        parts.language,
        tokenizer=parts.tokenizer,
        template=template,
        connector=parts.connector,
        fusion=parts.fusion,
    )


_AS_PIECES = """\
{%- set mark = image_mark or '<image>' -%}
{%- set ns = namespace(turns=[]) -%}
{%- for turn in messages -%}
  {%- if turn['content'] is string -%}
    {%- set said = namespace(pieces=[]) -%}
    {%- for text in turn['content'].split(mark) -%}
      {%- if not loop.first -%}
        {%- set said.pieces = said.pieces + [{'type': 'image'}] -%}
      {%- endif -%}
      {%- if text.strip() -%}
        {%- set words = text if loop.first else text.lstrip('\\n') -%}
        {%- set said.pieces = said.pieces + [{'type': 'text', 'text': words}] -%}
      {%- endif -%}
    {%- endfor -%}
    {%- set ns.turns = ns.turns + [{'role': turn['role'], 'content': said.pieces}] -%}
  {%- else -%}
    {%- set ns.turns = ns.turns + [turn] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = ns.turns -%}
"""
"""Makes turns of text into lists of pieces."""
_WORDS = "What is on the table?"


def in_our_form(template: str, tokenizer: Any) -> str:
    """Return a template that takes turns as text; one that does already is returned as it is.

    Whether it does is found by rendering a turn: its words and its mark must come out. Where the
    tokenizer itself puts a BOS before a text, as llava-hf's do, and the template does not write
    it, the returned one does: Laterna's tokens are those of the text alone. Raises LaternaError for
    a template that takes turns neither as text nor as lists of pieces.
    """
    template = template.removesuffix("\n")  # as Jinja does
    for candidate in (template, _taking_text(template)):
        if (text := _rendered(candidate, tokenizer)) is None:
            continue
        bos, first = tokenizer.bos_token, tokenizer("").input_ids[:1]
        adds = bool(bos) and first == [tokenizer.bos_token_id] and not text.startswith(bos)
        return _with_bos(candidate) if adds else candidate
    raise LaternaError(
        "the chat template takes turns neither as text nor as lists of pieces; name a shipped "
        "template instead"
    )


def _taking_text(template: str) -> str:
    """Return a template for lists of pieces that takes turns as text with marks."""
    return (
        f"{_AS_PIECES}{{%- set chat -%}}{template}{{%- endset -%}}"
        "{{- chat | replace('<image>', mark) -}}"
    )


def _with_bos(template: str) -> str:
    """Return a template that writes the BOS, which the given one leaves to the tokenizer."""
    return f"{{%- set whole -%}}{template}{{%- endset -%}}{{{{- bos_token + whole -}}}}"


def _rendered(template: str, tokenizer: Any) -> str | None:
    """Render a turn; None where its words or its mark are lost."""
    turns = [{"role": "user", "content": f"{DEFAULT_IMAGE_TOKEN}\n{_WORDS}"}]
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, image_mark=DEFAULT_IMAGE_TOKEN
        )
    except (TemplateError, TypeError, ValueError):
        return None
    return text if _WORDS in text and text.count(DEFAULT_IMAGE_TOKEN) == 1 else None
