"""The words that a teacher is sent before an image's proxy text: plain files, a folder a kind.

`system_message.txt`, then pairs `NNN_context.txt` and `NNN_reply.txt` as examples; `detail` has
`questions.txt` besides, one of which becomes the question that its description answers. A user's
own folder may hold the same, or LLaVA's layout (haotian-liu/LLaVA, playground/data/prompts): the
folders `conversation`, `detail_description` and `complex_reasoning` with pairs `NNN_caps.txt` and
`NNN_conv.txt`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from laterna.errors import LaternaError
from laterna.records import Kind, Message

_OURS = Path(__file__).parent
_LLAVA_FOLDERS: dict[Kind, str] = {
    "conversation": "conversation",
    "detail": "detail_description",
    "reasoning": "complex_reasoning",
}
_PAIRS = (("_context.txt", "_reply.txt"), ("_caps.txt", "_conv.txt"))
"""Endings of the two files of an example, ours and LLaVA's."""
_SYSTEM = "system_message.txt"
_QUESTIONS = "questions.txt"


def build_messages(kind: Kind, proxy_text: str, prompts: Path | None = None) -> tuple[Message, ...]:
    """Return the chat for a teacher: system message, examples, and the image's proxy text.

    `prompts` is a user's own folder in place of ours. Raises LaternaError that names what is
    missing there: the kind's folder, the system message, one half of an example.
    """
    return (*_opening(kind, prompts), Message(role="user", content=proxy_text))


def read_prompt(name: str) -> str:
    """Return the system message of one of our own folders, as the judge's."""
    return _text(_OURS / name / _SYSTEM)


@cache
def detail_questions(prompts: Path | None = None) -> tuple[str, ...]:
    """Return the paraphrases of the question that a description answers, one a line of the file.

    A folder of a user's own that has no `questions.txt` for `detail`, as LLaVA's has none, leaves
    ours in force. Raises LaternaError where there is one without questions.
    """
    path = _folder("detail", prompts) / _QUESTIONS
    if not path.is_file():
        path = _OURS / "detail" / _QUESTIONS
    questions = tuple(line.strip() for line in _text(path).splitlines() if line.strip())
    if not questions:
        raise LaternaError(f"{path} holds no question; write one a line, or remove the file")
    return questions


@cache
def _opening(kind: Kind, prompts: Path | None) -> tuple[Message, ...]:
    folder = _folder(kind, prompts)
    if not (folder / _SYSTEM).is_file():
        raise LaternaError(f"{folder} lacks {_SYSTEM}, the system message for kind {kind!r}")
    messages = [Message(role="system", content=_text(folder / _SYSTEM))]
    for context, reply in _examples(folder):
        messages.append(Message(role="user", content=_text(context)))
        messages.append(Message(role="assistant", content=_text(reply)))
    return tuple(messages)


def _folder(kind: Kind, prompts: Path | None) -> Path:
    """Return the folder of a kind, under our name for it or under LLaVA's."""
    if prompts is None:
        prompts = _OURS
    names = dict.fromkeys((kind, _LLAVA_FOLDERS.get(kind, kind)))
    found = [prompts / name for name in names if (prompts / name).is_dir()]
    if not found:
        raise LaternaError(
            f"{prompts} holds no prompts for kind {kind!r}: it needs the folder "
            f"{' or '.join(names)} with {_SYSTEM} and examples, or leave that kind out"
        )
    if len(found) > 1:
        raise LaternaError(f"{prompts} holds both {' and '.join(names)}; keep one of them")
    return found[0]


def _examples(folder: Path) -> list[tuple[Path, Path]]:
    """Return the examples' files, in the order of their names; a file of no use is an error."""
    examples = []
    known = {_SYSTEM, _QUESTIONS}
    for shown, answered in _PAIRS:
        for context in sorted(folder.glob(f"*{shown}")):
            reply = context.with_name(context.name.removesuffix(shown) + answered)
            if not reply.is_file():
                raise LaternaError(f"{context} has no {reply.name} beside it: its reply is missing")
            examples.append((context, reply))
            known |= {context.name, reply.name}
    stray = sorted(path.name for path in folder.glob("*.txt") if path.name not in known)
    if stray:
        endings = " or ".join(f"NNN{shown} with NNN{answered}" for shown, answered in _PAIRS)
        raise LaternaError(f"{folder}: {', '.join(stray)} belongs to no example ({endings})")
    return examples


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise LaternaError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise LaternaError(f"{path} is empty")
    return text
