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


_FOR_OTHERS = """\
{%- if image_mark -%}{{- chat -}}{%- else -%}
{%- set start = bos_token if leaves_bos and bos_token and chat.startswith(bos_token) else '' -%}
{%- for piece in chat[start | length:].split('<image>') -%}
  {{- '' if loop.first else '<image>' -}}
  {{- ' ' if space_after and piece and not loop.first and not piece.startswith(eos_token or '\\0')
      else '' -}}
  {{- piece -}}
{%- endfor -%}
{%- endif -%}
"""
"""What other programs get of a chat; Laterna, which tells its `image_mark`, gets it as it is."""


def accepting_pieces(template: str, *, without_bos: bool, space_after: bool) -> str:
    """Make a template of Laterna's take turns as lists of pieces too.

    Other programs tokenize a chat in one piece, `<image>` in it. `without_bos` leaves a leading
    BOS out, for tokenizers that add one themselves; `space_after` puts the space behind an image
    that a tokenizer gives to the first text alone, as Laterna and LLaVA have it before each piece.
    """
    body = template.removesuffix("\n")
    if not (without_bos or space_after):
        return _AS_TEXT + body
    said = f"{{%- set leaves_bos, space_after = {str(without_bos).lower()}, "
    return (
        f"{_AS_TEXT}{{%- set chat -%}}{body}{{%- endset -%}}"
        f"{said}{str(space_after).lower()} -%}}{_FOR_OTHERS}"
    )


def accepting_text(template: str) -> str:
    """Make a template that wants turns as lists of pieces take them as text with marks."""
    body = template.removesuffix("\n")
    return (
        f"{_AS_PIECES}{{%- set chat -%}}{body}{{%- endset -%}}"
        "{{- chat | replace('<image>', mark) -}}"
    )


def beginning_with_bos(template: str) -> str:
    """Make a template write the BOS that it leaves to the tokenizer."""
    body = template.removesuffix("\n")
    return f"{{%- set whole -%}}{body}{{%- endset -%}}{{{{- bos_token + whole -}}}}"
