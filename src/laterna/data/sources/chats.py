"""Rows of other people's: a chat, or one question and its answer (`other_rows`).

    {"id", "image", "conversations": [{"from", "value"}]}    a text, in which <image> is an image
    {"messages": [{"role", "content"}], "images": […]}       a text, or a list of parts
    {"texts": [{"user", "assistant"}], "images": […]}        whole exchanges
    {"image", "question", "answer"}     VQA's; or `answers`, of which the most frequent is learned;
                                        or ms-swift's `query` and `response`, with `history`
    {"instruction", "input", "output"}  Alpaca's; `input` behind the instruction, on its own line

They are read alike: either name of a key, words or parts, turns or exchanges, as they are or as
JSON text. What else a row may say is in `keys`. An image part at the beginning or the end of a
turn is set apart by a line's end, as LLaVA writes it; one amid the words stands as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import msgspec
from msgspec import structs

from laterna.data.sources import keys
from laterna.data.sources.marks import with_our_marks
from laterna.data.sources.rows import (
    Columns,
    Form,
    Image,
    Reading,
    UnreadableRowError,
    decode_json,
    images_in,
    name_of,
    shortened,
)
from laterna.records import DEFAULT_IMAGE_TOKEN, Kind, Provenance, Role, Turn

_NAMED = re.compile(r"<img>(.*?)</img>", re.DOTALL)
"""Qwen-VL's image amid the words."""
_NUMBERED = re.compile(r"<image_?\d+>")
"""MiniCPM-V's mark, which is the image's key in `image`."""
_FILE = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|jfif|ppm|heic|avif)$", re.IGNORECASE)
"""What an image's file ends with; other programs call other files by such keys too."""

Said = tuple[Turn, list[Image]]
"""A turn, and the images that it names itself."""


def read_chat(row: bytes | Columns, place: str, column: str, *, marked: bool) -> Reading:
    """Read a row whose key `column` holds the turns; `marked`: its words mark every image.

    Raises as `Form.read` does.
    """
    content = columns_of(row)
    found: list[Said] = []
    for item in _listed(column, content.get(column)):
        turn = _plain_turn(item)
        if turn is None:
            found.extend(_turns(item))
        else:
            found.append((turn, []))
    return record_of(content, place, found, keys.ROW_KEYS, marked=marked)


def columns_of(row: bytes | Columns) -> Columns:
    """Return a row's keys. Raises ValueError for one that is no object."""
    content = decode_json(row) if isinstance(row, bytes) else row
    if not isinstance(content, dict):
        raise _not_text("a row", content, "object")
    return content


def record_of(
    row: Columns, place: str, said: Sequence[Said], table: Mapping[str, str], *, marked: bool
) -> Reading:
    """Return the record of what is said in a row, and of its other keys.

    Where its words need not mark its images (`marked`), and mark none, these stand before the
    first question. Raises UnreadableRowError for a key that is not honoured.
    """
    listed: list[Image] = []
    numbered, beside = dict[str, list[Image]](), Columns()
    system, turns = "", [turn for turn, _ in said]
    for key, value in row.items():
        use = table.get(key)
        if use is None or not is_said(value):
            continue
        if use == keys.IMAGE:
            if isinstance(value, dict) and all(map(_NUMBERED.fullmatch, value)):
                numbered |= {mark: images_in(one) for mark, one in value.items()}
            else:
                listed += images_in(_decoded(value) if _is_list(value) else value)
        elif use in (keys.NAME, keys.ID):
            beside[key] = value
        elif use in (keys.LOSS, keys.NO_LOSS):
            _require_learned(key, value, use)
        elif use == keys.SYSTEM:
            system = _one_system(_words(value), system)
        elif use == keys.HISTORY:
            turns = [turn for pair in _listed(key, value) for turn in _exchange(pair)] + turns
        else:
            raise UnreadableRowError(use, f"the key `{key}` says that this row {use}")
    if system:
        first = turns[0] if turns and turns[0].role == "system" else None
        system = _one_system(system, first.text if first else "")
        turns = [Turn(role="system", text=system), *turns[1 if first else 0 :]]
    own = [image for _, images in said for image in images]
    if listed and own and listed != own:
        raise UnreadableRowError(
            "images named twice", "its turns name other images than the row does"
        )
    found = listed or own or ([] if numbered else _named_beside(beside))
    turns, images = _with_marks(turns, found, numbered)
    _require_named(turns, images, beside, row)
    turns = turns if marked else _unmarked_first(turns, len(images))
    return Reading.of(
        name_of(row, place),
        turns,
        images,
        _ours(row.get("kind"), Kind),
        _ours(row.get("provenance"), Provenance),
    )


def _named_beside(beside: Columns) -> list[Image]:
    """Return the images that a row's other keys name by their files."""
    for value in beside.values():
        names = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(name, str) and _FILE.search(name) for name in names):
            return images_in(list(names))
    return []


def _require_named(
    turns: Sequence[Turn], images: Sequence[Image], beside: Columns, row: Columns
) -> None:
    """Raise UnreadableRowError for turns with a mark of what is no image, or of an image that the
    row names by nothing that can be read.
    """
    for turn in turns:
        mark = turn.role == "user" and next((mark for mark in keys.MARKS if mark in turn.text), "")
        if mark:
            raise UnreadableRowError(keys.MARKS[mark], f"a turn holds the mark {mark}")
    if images:
        return
    for key in beside:
        if keys.ROW_KEYS[key] == keys.ID:
            raise UnreadableRowError(
                "an image named by an id",
                f"the key `{key}` is no file name; write the image's file as the key `image`",
            )
    if any(turn.role == "user" and DEFAULT_IMAGE_TOKEN in turn.text for turn in turns):
        names = shortened(", ".join(row))
        raise UnreadableRowError(
            "image marks do not match the images",
            f"its words mark an image, and none of its keys ({names}) names one; write the "
            "image's file as the key `image`",
        )


def _require_learned(key: str, value: object, use: str) -> None:
    """Raise UnreadableRowError where a row's key says that nothing of it is learned."""
    if value in (0, 1) and (value == 1) != (use == keys.LOSS):
        raise UnreadableRowError(
            "is not to be learned", f"the key `{key}` says that this row is not to be learned"
        )


def _ours(value: object, kind: Any) -> Any:
    """Return what synthesis wrote; None for another program's key of that name."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def is_said(value: object) -> bool:
    """Say whether a key holds anything: tables give a row every key that any row has."""
    return not (value is None or value != value or value == "" or value == [] or value == {})


def words_turn(role: Role, text: object, *, loss: bool = True) -> Turn:
    """Return a turn of these words, the assistant's with loss.

    Raises msgspec.ValidationError for what are no words.
    """
    return Turn(role=role, text=_words(text), loss=loss and role == "assistant")


def _words(text: object) -> str:
    if isinstance(text, str):
        return text
    raise _not_text("the words of a turn", text, "str")


def _not_text(what: str, value: object, wanted: str) -> msgspec.ValidationError:
    return msgspec.ValidationError(f"Expected `{wanted}`, got `{_kind(value)}`: {what}")


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _is_list(value: object) -> bool:
    return isinstance(value, str) and value[:1] == "[" and value[-1:] == "]"


def _decoded(value: Any) -> Any:
    """Return what a JSON text in a column holds; what is no text as it is."""
    return decode_json(value.encode(errors="surrogatepass")) if isinstance(value, str) else value


def _listed(key: str, value: object) -> list[Any]:
    """Return the list that a key holds, as it is or as JSON text."""
    found = _decoded(value)
    if isinstance(found, list):
        return found
    raise _not_text(f"`{key}`", found, "list")


def _one_system(one: str, other: str) -> str:
    if one and other and one != other:
        raise UnreadableRowError("two system prompts", "it has two system prompts that differ")
    return one or other


def _exchange(pair: object) -> Iterator[Turn]:
    """Yield the turns of an exchange before the row's own: `[question, answer]`, or an object."""
    if isinstance(pair, list | tuple) and len(pair) == 2:
        yield words_turn("user", pair[0])
        yield words_turn("assistant", pair[1])
        return
    for turn, images in _turns(pair):
        if images:
            raise UnreadableRowError("images in the history", "its history names images")
        yield turn


def _plain_turn(item: object) -> Turn | None:
    """Return the turn of an item that says who speaks and what words, and no more, as most do: the
    same as `_turns`, four times as fast. None for any other.
    """
    if not isinstance(item, dict) or len(item) != 2:
        return None
    speaker = item.get("from") or item.get("role")
    text = item.get("value") or item.get("content")
    if type(speaker) is not str or type(text) is not str:
        return None
    role = keys.SPEAKERS.get(speaker)
    return None if role is None else Turn(role=role, text=text, loss=role == "assistant")


def _turns(item: object) -> Iterator[Said]:
    """Yield the turn that an item of a chat is, or the two turns of a whole exchange."""
    if not isinstance(item, dict):
        raise _not_text("a turn", item, "object")
    speaker = item.get("from") or item.get("role")
    exchange = speaker is None
    speaker = "assistant" if exchange else speaker
    role = keys.SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        known = ", ".join(keys.SPEAKERS)
        raise UnreadableRowError(
            "unknown role", f"unknown role {shortened(repr(speaker))}; known roles are: {known}"
        )
    loss, beside = True, list[Image]()
    for key, value in item.items():
        use = keys.TURN_KEYS.get(key)
        if use is None or not is_said(value):
            continue
        if use in (keys.LOSS, keys.NO_LOSS):
            loss = _is_learned(key, value, role, use) and loss
        elif use == keys.IMAGE:
            beside += images_in(value)
        elif use == keys.ID:
            continue
        elif use == keys.NAME:
            beside += [] if beside else _named_beside({key: value})
        else:
            raise UnreadableRowError(use, f"the key `{key}` of a turn says that this row {use}")
    if exchange:
        yield words_turn("user", _first(item, keys.ASKED)), beside
        yield words_turn("assistant", _first(item, keys.ANSWERED), loss=loss), []
        return
    words = item.get("value")
    text, images = _content(item.get("content") if words is None else words)
    yield words_turn(role, text, loss=loss), images + beside


def _first(item: Columns, names: Sequence[str]) -> object:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _is_learned(key: str, value: object, role: Role, use: str) -> bool:
    """Say whether a turn is learned by what its key says."""
    if value not in (0, 1):
        raise UnreadableRowError(
            "a weight of a turn that is neither 0 nor 1", f"a turn's `{key}` is {value!r}"
        )
    learned = bool(value) == (use == keys.LOSS)
    if learned and role != "assistant" and use == keys.LOSS and key not in ("weight", "label"):
        raise UnreadableRowError(
            "a turn that is to be learned and is not the assistant's",
            f"a turn of the {role} has `{key}`: only the assistant's are learned",
        )
    return learned


def _content(content: object) -> tuple[str, list[Image]]:
    """Return a turn's text and the images that its parts name; image parts become marks."""
    if not isinstance(content, list):
        return _words(content), []
    images: list[Image] = []
    texts: list[str | None] = []
    for part in content:
        text, own = _part(part)
        texts.append(text)
        images += own
    first = sum(1 for _ in takewhile(lambda text: text is None, texts))
    if first == len(texts):
        return "\n".join([DEFAULT_IMAGE_TOKEN] * first), images
    last = sum(1 for _ in takewhile(lambda text: text is None, reversed(texts)))
    words = "".join(
        text or DEFAULT_IMAGE_TOKEN if text != "" else ""
        for text in texts[first : len(texts) - last]
    )
    return f"{DEFAULT_IMAGE_TOKEN}\n" * first + words + f"\n{DEFAULT_IMAGE_TOKEN}" * last, images


def _part(part: object) -> tuple[str | None, list[Image]]:
    """Return the text of a part, None for an image, and the image that it names itself."""
    if isinstance(part, str):
        return part, []
    if not isinstance(part, dict):
        raise _not_text("a part of a turn", part, "object")
    kind = part.get("type") or next((key for key in keys.PARTS if is_said(part.get(key))), None)
    use = keys.PARTS.get(kind) if isinstance(kind, str) else None
    if use == keys.IMAGE:
        named = (part.get(key) for key in keys.PART_IMAGES)
        return None, next((images_in(one) for one in named if is_said(one)), [])
    if use == keys.TEXT and part.get("text") is not None:
        return _words(part["text"]), []
    raise UnreadableRowError(
        use if use and use != keys.TEXT else "a part that is neither text nor image",
        f"a part of type {shortened(repr(kind))} has no text and is no image",
    )


def _with_marks(
    turns: Sequence[Turn], images: list[Image], numbered: Mapping[str, list[Image]]
) -> tuple[list[Turn], list[Image]]:
    """Return turns in which every image has our mark, and the images in the marks' order."""
    turns = with_our_marks(turns, len(images))
    if not any("<im" in turn.text for turn in turns):
        return turns, images
    found: list[Image] = []

    def marked(mark: re.Match[str]) -> str:
        known = numbered.get(mark.group()) if numbered else images_in(mark[1].strip())
        found.extend(known or ())
        return DEFAULT_IMAGE_TOKEN if known else mark.group()

    pattern = _NUMBERED if numbered else _NAMED
    written = [
        structs.replace(turn, text=pattern.sub(marked, turn.text)) if turn.role == "user" else turn
        for turn in turns
    ]
    if found and images and found != images:
        raise UnreadableRowError(
            "images named twice", "its words name other images than the row does"
        )
    return written, found or images


def _unmarked_first(turns: Sequence[Turn], images: int) -> list[Turn]:
    """Return turns with images that no turn marks before the first question."""
    asked = [place for place, turn in enumerate(turns) if turn.role == "user"]
    if not images or not asked or any(DEFAULT_IMAGE_TOKEN in turns[one].text for one in asked):
        return list(turns)
    first = turns[asked[0]]
    text = f"{DEFAULT_IMAGE_TOKEN}\n" * images + first.text
    return [*turns[: asked[0]], structs.replace(first, text=text), *turns[asked[0] + 1 :]]


def _form(column: str, *, marked: bool) -> Form:
    return Form(columns=((column,),), read=partial(read_chat, column=column, marked=marked))


CONVERSATIONS = _form("conversations", marked=True)
MESSAGES = _form("messages", marked=False)
TEXTS = _form("texts", marked=False)
