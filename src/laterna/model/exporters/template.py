"""Laterna's chat templates for programs that write a turn as a list of pieces.

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
"""What other programs get of a chat; Laterna, which sets `image_mark`, gets it unchanged."""
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


def taking_lists(template: str, *, without_bos: bool, space_after: bool) -> str:
    """Return a template of Laterna's that takes turns as lists of pieces too.

    Other programs tokenize a chat whole, with `<image>` in it. `without_bos`: without a leading
    BOS, for tokenizers that add one themselves. `space_after`: with a space after each image, for
    tokenizers that add one before the first text only, where Laterna and LLaVA have one before
    every text.
    """
    body = template.removesuffix("\n")
    if not (without_bos or space_after):
        return _AS_TEXT + body
    flags = ", ".join(str(flag).lower() for flag in (without_bos, space_after))
    return (
        f"{_AS_TEXT}{{%- set chat -%}}{body}{{%- endset -%}}"
        f"{{%- set leaves_bos, space_after = {flags} -%}}{_FOR_OTHERS}"
    )


def for_llama_cpp(template: str, eos_token: str) -> str:
    """Return a template of Laterna's that llama.cpp's programs render.

    They hand over pieces, an image as a text piece that holds their mark; pieces are joined by
    newlines, as in Laterna's server. Some (llama-cpp-python) leave `eos_token` empty, so it is
    written in; all add the BOS themselves where the file says so.
    """
    eos = eos_token.replace("\\", "\\\\").replace("'", "\\'")
    return _FOR_LLAMA_CPP.replace("EOS", f"'{eos}'") + template.removesuffix("\n")
