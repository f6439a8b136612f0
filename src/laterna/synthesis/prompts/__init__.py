"""The words that a teacher is sent before a picture's proxy text: plain files, a folder a kind.

`system_message.txt`, then pairs `NNN_context.txt` and `NNN_reply.txt` as examples; `detail` has
`questions.txt` besides, one of which becomes the question that its description answers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from laterna.records import Kind, Message

_FOLDER = Path(__file__).parent


def build_messages(kind: Kind, proxy_text: str) -> tuple[Message, ...]:
    """Return the chat for a teacher: system message, examples, and the picture's proxy text."""
    return (*_opening(kind), Message(role="user", content=proxy_text))


@cache
def detail_questions() -> tuple[str, ...]:
    """Return the paraphrases of the question that a description answers."""
    return tuple(_text(_FOLDER / "detail" / "questions.txt").splitlines())


@cache
def _opening(kind: Kind) -> tuple[Message, ...]:
    folder = _FOLDER / kind
    messages = [Message(role="system", content=_text(folder / "system_message.txt"))]
    for context in sorted(folder.glob("*_context.txt")):
        reply = context.with_name(context.name.replace("_context", "_reply"))
        messages.append(Message(role="user", content=_text(context)))
        messages.append(Message(role="assistant", content=_text(reply)))
    return tuple(messages)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").rstrip("\n")
