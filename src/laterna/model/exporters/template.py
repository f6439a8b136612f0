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


def for_llama_cpp(template: str, eos_token: str) -> str:
    """Make a template of Laterna's one that llama.cpp's programs render.

    They hand over pieces, an image as a text piece that holds their mark; pieces stand one below
    the other, as in Laterna's server. Some (llama-cpp-python) leave `eos_token` empty, so it is
    written in; all add the BOS themselves where the file says so.
    """
    body = template.removesuffix("\n")
    eos = eos_token.replace("\\", "\\\\").replace("'", "\\'")
    return _FOR_LLAMA_CPP.replace("EOS", f"'{eos}'") + body


_FOR_LLAMA_CPP = """\
{%- set image_mark = image_mark or '<__media__>' -%}
{%- set eos_token = eos_token or EOS -%}
{%- set ns = namespace(turns=[]) -%}
{%- for turn in messages -%}
  {%- set said = namespace(text=turn['content']) -%}
  {%- if turn['content'] is not string -%}
    {%- set said.text = '' -%}
    {%- for piece in turn['content'] -%}
      {%- set text = piece['text'] if piece['type'] == 'text' else image_mark -%}
      {%- set said.text = said.text + ('' if loop.first else '\\n') + text -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set ns.turns = ns.turns + [{'role': turn['role'], 'content': said.text}] -%}
{%- endfor -%}
{%- set messages = ns.turns -%}
"""


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
