"""The words of the OpenAI chat API: a request's body becomes a chat, an answer becomes bodies.

What is harmless and not known is ignored, what would change the answer and is not supported is
refused by name. Nothing here knows of HTTP or of the engine's workings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from laterna.errors import LaternaError
from laterna.inference.batching.request import Event
from laterna.inference.sampling import MOST_TOP_LOGPROBS, Decoding, Token
from laterna.records import DEFAULT_IMAGE_TOKEN, Turn

MOST_CHOICES, MOST_STOPS, MOST_IMAGES = 8, 4, 32
DEFAULT_TOKENS = 1024
"""Longest answer where a request does not say; shorter where the model has less room."""
MOST_EXPLAINED = 64
"""Longest answer that is written to be explained, where a request does not say."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
NEUTRAL: dict[str, tuple[object, ...]] = {
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none",),
    "response_format": ({"type": "text"},), "audio": (), "modalities": (["text"],),
    "logit_bias": ({},), "presence_penalty": (0, 0.0), "frequency_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0), "min_p": (0, 0.0), "best_of": (1,), "prediction": (),
    "web_search_options": (), "use_beam_search": (False,), "prompt_logprobs": (),
}  # fmt: skip
"""Parameters that are not supported, with the values that ask for nothing."""


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry: int = 0
    ) -> None:
        """Keep the HTTP status; `retry` is the number of seconds of a Retry-After header."""
        super().__init__(message)
        self.status, self.code, self.param, self.retry = status, code, param, retry

    def body(self) -> dict[str, Any]:
        """Return the form that every client of the API reads."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }


class ChatRequest(NamedTuple):
    """What a client asks for."""

    model: str | None
    turns: tuple[Turn, ...]
    addresses: tuple[str, ...]
    """Of the images, in the order of their marks."""
    decoding: Decoding
    choices: int
    stream: bool
    usage: bool
    """Whether a stream ends with the tokens that were counted."""


class ExplainRequest(NamedTuple):
    """What a client wants explained."""

    chat: ChatRequest
    answer: str | None
    """None: the one that the model gives, greedily."""
    image: int
    """Which of the chat's images, from 0."""
    methods: tuple[str, ...]
    window: int
    """Side of what occlusion covers, in cells."""


def refuse(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the error for a request that cannot be meant."""
    return ApiError(400, message, code=code, param=param)


def read_request(body: bytes) -> ChatRequest:
    """Read the body of a chat completion. Raises ApiError."""
    return _read_chat(_read_object(body))


def read_explain_request(body: bytes, methods: Iterable[str]) -> ExplainRequest:
    """Read the body of an explanation, by any of the known `methods`. Raises ApiError.

    Its last message may be the assistant's: the answer to explain.
    """
    asked = _read_object(body)
    messages, answer = asked.get("messages"), None
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        last = messages[-1]
        if last.get("role") == "assistant":
            where = f"messages[{len(messages) - 1}].content"
            answer = _content(last.get("content"), where, "assistant", [])
            messages = messages[:-1]
    known = list(methods)
    wanted = ["occlusion"] if asked.get("methods") is None else asked["methods"]
    if not isinstance(wanted, list) or not all(one in known for one in wanted):
        raise refuse(f"methods: must be a list of {', '.join(known)}; it may be empty", "methods")
    tokens = _number(asked, "max_tokens", int, MOST_EXPLAINED, 1, DEFAULT_TOKENS)
    chat = _read_chat({"model": asked.get("model"), "messages": messages, "max_tokens": tokens})
    image = _number(asked, "image", int, 0, 0, MOST_IMAGES - 1)
    if image >= len(chat.addresses):
        raise refuse(f"image: the chat has {len(chat.addresses)} images, counted from 0", "image")
    window = _number(asked, "window", int, 1, 1, 10**6)
    return ExplainRequest(chat, answer, image, tuple(wanted), window)


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refuse("the body is not JSON", code="invalid_json") from error
    if not isinstance(asked, dict):
        raise refuse("the body must be a JSON object", code="invalid_json")
    return asked


def _read_chat(asked: dict[str, Any]) -> ChatRequest:
    for name, neutral in NEUTRAL.items():
        if asked.get(name) is not None and asked[name] not in neutral:
            raise refuse(
                f"{name}: not supported by this server", name, code="unsupported_parameter"
            )
    turns, addresses = _chat(asked.get("messages"))
    options = asked.get("stream_options") or {}
    model = asked.get("model")
    if model is not None and not isinstance(model, str):
        raise refuse("model: must be a text", "model")
    return ChatRequest(
        model=model,
        turns=turns,
        addresses=addresses,
        decoding=_decoding(asked),
        choices=_number(asked, "n", int, 1, 1, MOST_CHOICES),
        stream=_flag(asked, "stream"),
        usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _decoding(asked: dict[str, Any]) -> Decoding:
    tokens = "max_tokens" if asked.get("max_completion_tokens") is None else "max_completion_tokens"
    top = _number(asked, "top_logprobs", int, 0, 0, MOST_TOP_LOGPROBS)
    wanted = _flag(asked, "logprobs")
    if asked.get("top_logprobs") is not None and not wanted:
        raise refuse("top_logprobs: needs logprobs to be true", "top_logprobs")
    seed = asked.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise refuse("seed: must be a whole number", "seed")
    try:
        return Decoding(
            max_new_tokens=_number(asked, tokens, int, DEFAULT_TOKENS, 1, 10**6),
            temperature=_number(asked, "temperature", float, 1.0, 0, 2),
            top_p=_number(asked, "top_p", float, 1.0, 1e-9, 1),
            top_k=max(0, _number(asked, "top_k", int, 0, -1, 10**6)),
            seed=seed,
            stop=_stops(asked.get("stop")),
            logprobs=top if wanted else None,
        )
    except LaternaError as error:
        raise refuse(str(error)) from error


def _number(
    asked: dict[str, Any],
    name: str,
    kind: Callable[[Any], Any],
    default: Any,
    least: Any,
    most: Any,
) -> Any:
    value = asked.get(name)
    if value is None:
        return default
    whole = isinstance(value, int) or (isinstance(value, float) and kind is float)
    if isinstance(value, bool) or not whole or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise refuse(f"{name}: must be {what} from {least} to {most}", name)
    return kind(value)


def _flag(asked: dict[str, Any], name: str) -> bool:
    value = asked.get(name)
    if value not in (None, True, False) or (isinstance(value, int | float) and value not in (0, 1)):
        raise refuse(f"{name}: must be true or false", name)
    return bool(value)


def _stops(stop: Any) -> tuple[str, ...]:
    found = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise refuse("stop: must be a text or a list of texts, none of them empty", "stop")
    if len(found) > MOST_STOPS:
        raise refuse(f"stop: at most {MOST_STOPS} texts", "stop")
    return tuple(found)


def _chat(messages: Any) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    if not isinstance(messages, list) or not messages:
        raise refuse("messages: must be a list with at least one message", "messages")
    turns: list[Turn] = []
    addresses: list[str] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            known = ", ".join(ROLES)
            raise refuse(f"{where}: must be an object whose role is one of {known}", where)
        if message.get("tool_calls"):
            raise refuse(f"{where}: tool calls are not supported", where, "unsupported_parameter")
        role = ROLES[message["role"]]
        text = _content(message.get("content"), f"{where}.content", role, addresses)
        turns.append(Turn(role=role, text=text))  # type: ignore[arg-type]
    if turns[-1].role != "user":
        raise refuse("messages: the last message must be a user's", "messages")
    if len(addresses) > MOST_IMAGES:
        raise refuse(f"messages: {len(addresses)} images, at most {MOST_IMAGES}", "messages")
    return tuple(turns), tuple(addresses)


def _content(content: Any, where: str, role: str, addresses: list[str]) -> str:
    """Return a message's text, a mark in the place of each image, whose address is added."""
    if content is None and role == "assistant":
        return ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise refuse(f"{where}: must be a text or a list of parts", where)
    pieces: list[str] = []
    for number, part in enumerate(parts):
        place = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text"):
            pieces.append(_text(part.get("text"), place))
        elif kind in ("image_url", "input_image"):
            if role != "user":
                raise refuse(f"{place}: images stand in a user's messages alone", place)
            pieces.append(DEFAULT_IMAGE_TOKEN)
            addresses.append(_address(part.get("image_url"), place))
        else:
            raise refuse(
                f"{place}: a part of type {kind!r} is not supported; use text or image_url",
                place,
                "unsupported_parameter",
            )
    return "\n".join(pieces)


def _text(text: Any, place: str) -> str:
    if not isinstance(text, str):
        raise refuse(f"{place}: its text must be a text", place)
    if DEFAULT_IMAGE_TOKEN in text:
        raise refuse(
            f"{place}: {DEFAULT_IMAGE_TOKEN} stands for an image and cannot be written; send the "
            "image as a part of type image_url",
            place,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refuse(f"{place}: half a character (a lone surrogate) is in it", place) from error
    return text


def _address(given: Any, place: str) -> str:
    address = given.get("url") if isinstance(given, dict) else given
    if not isinstance(address, str) or not address:
        raise refuse(f"{place}: image_url must hold a url", place, "invalid_image_url")
    return address


def sent(body: dict[str, Any]) -> str:
    """Return a body as an event of a stream."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


class Answers:
    """Makes the bodies of one completion, streamed or whole."""

    def __init__(
        self, name: str, created: int, model: str, show: Callable[[int], str], *, logprobs: bool
    ) -> None:
        """`name` is the completion's id; `show` returns the text of a token's id."""
        self._head = {"id": name, "created": created, "model": model}
        self._show, self._logprobs = show, logprobs

    def first(self, index: int) -> dict[str, Any]:
        """Return the chunk that opens a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, event: Event) -> dict[str, Any]:
        """Return the chunk of what is new."""
        found = self._chunk(index, {"content": event.text})
        if self._logprobs:
            found["choices"][0]["logprobs"] = self.logprobs(event.tokens)
        return found

    def last(self, index: int, finish: str) -> dict[str, Any]:
        """Return the chunk that closes a choice."""
        return self._chunk(index, {}, finish)

    def usage(self, prompt: int, completion: int, cached: int) -> dict[str, Any]:
        """Return the tokens that were counted."""
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def closing(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk without choices that tells the tokens."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(
        self, choices: Sequence[tuple[str, str, Sequence[Token]]], usage: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the completion; `choices` are text, finish reason and shown tokens."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": finish,
                    "logprobs": self.logprobs(tokens) if self._logprobs else None,
                }
                for index, (text, finish, tokens) in enumerate(choices)
            ],
            "usage": usage,
        }

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return the log probabilities of tokens."""
        return {
            "content": [
                {
                    **self._token(token.id, token.logprob),
                    "top_logprobs": [self._token(*other) for other in token.top],
                }
                for token in tokens
            ]
        }

    def _token(self, number: int, logprob: float | None) -> dict[str, Any]:
        text = self._show(number)
        return {
            "token": text,
            "logprob": -9999.0 if logprob is None else max(logprob, -9999.0),
            "bytes": None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode()),
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
