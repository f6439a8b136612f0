"""Chat templates between the ways that programs write a turn: one text, or a list of pieces.

Laterna's templates take a turn as text with `<image>` in it. Hugging Face's processors and
OpenAI-like servers hand over a list, `[{"type": "image"}, {"type": "text", "text": "…"}]`.
"""

from __future__ import annotations

_AS_TEXT = """\
{%- set ns = namespace(turns=[]) -%}
{%- for turn in messages -%}
  {%- if turn['content'] is string -%}
    {%- set ns.turns = ns.turns + [turn] -%}
  {%- else -%}
    {%- set said = namespace(text='') -%}
    {%- for piece in turn['content'] -%}
      {%- if piece['type'] == 'text' -%}
        {%- set said.text = said.text + piece['text'] -%}
      {%- else -%}
        {%- set said.text = said.text + '<image>' + ('' if loop.last else '\\n') -%}
      {%- endif -%}
    {%- endfor -%}
    {%- set ns.turns = ns.turns + [{'role': turn['role'], 'content': said.text}] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = ns.turns -%}
"""
_AS_PIECES = """\
{%- set mark = picture_mark or '<image>' -%}
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


def accepting_pieces(template: str, *, without_bos: bool) -> str:
    """Make a template of Laterna's take turns as lists of pieces too.

    `without_bos` leaves a leading BOS out of the text, for tokenizers that add one themselves.
    """
    body = template.removesuffix("\n")
    if not without_bos:
        return _AS_TEXT + body
    return (
        f"{_AS_TEXT}{{%- set chat -%}}{body}{{%- endset -%}}"
        "{{- chat[(bos_token or '')|length:] if chat.startswith(bos_token or '') else chat -}}"
    )


def accepting_text(template: str) -> str:
    """Make a template that wants turns as lists of pieces take them as text with marks."""
    body = template.removesuffix("\n")
    return (
        f"{_AS_PIECES}{{%- set chat -%}}{body}{{%- endset -%}}"
        "{{- chat | replace('<image>', mark) -}}"
    )
