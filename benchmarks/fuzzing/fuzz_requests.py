"""Requests that are wrong in every way, as bytes; `fuzz_serving.py` sends them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from PIL import Image

CHAT = "/v1/chat/completions"
KEY = "fuzz-key"


class Attack(NamedTuple):
    """One request as it goes over the wire."""

    kind: str
    raw: bytes
    read: int | None = None
    """Bytes of the answer to read before hanging up; None: all."""
    broken: bool = False
    """Whether it is no whole HTTP request: hanging up without an answer is an answer."""


def http(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """Return a whole request that asks to hang up afterwards."""
    named = {"Host": "127.0.0.1", "Authorization": f"Bearer {KEY}", "Connection": "close",
             "Content-Length": str(len(body)), **(headers or {})}  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body


WORDS = ("", " ", "a", "What is it?", "<image>", "<s>", "</s>", "\x00", "\ud800", "é" * 50,
         "🙂", "\u202e", "a" * 5000, "null", "%s%n", "{{ 7*7 }}",
         "../../etc/passwd", "<|im_end|>")  # fmt: skip
NUMBERS = (0, -1, 1, 2, 7, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**63, -(2**63), 10**400, 1e400)
ADDRESSES = ("file:///etc/passwd", "/etc/passwd", "http://127.0.0.1/a.png", "http://[::1]/",
             "http://169.254.169.254/latest/meta-data/", "https://example.org/a.png", "ftp://a/b",
             "data:", "data:,", "data:image/png;base64", "data:image/png;base64,", "http://a@b:c/",
             "http://[", "//x", "javascript:1", "http://\ud800/", "data:image/svg+xml,<svg/>",
             "data:image/png;base64," + "A" * 3000, "gopher://x",
             "http://0x7f000001/a")  # fmt: skip
PARAMETERS = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p",
              "top_k", "seed", "stop", "n", "logprobs", "top_logprobs", "stream", "tools",
              "stream_options", "response_format", "logit_bias", "user", "metadata", "functions",
              "presence_penalty", "frequency_penalty", "min_p", "modalities",
              "x" * 300)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def value(draw: Random, depth: int = 0) -> Any:
    """Return any JSON value."""
    kinds: list[Callable[[], Any]] = [
        lambda: draw.choice(WORDS),
        lambda: draw.choice(NUMBERS),
        lambda: draw.choice((None, True, False)),
        lambda: draw.uniform(-3, 3),
    ]
    if depth < 3:
        kinds += [
            lambda: [value(draw, depth + 1) for _ in range(draw.randrange(5))],
            lambda: {
                draw.choice((*WORDS, *PARAMETERS, "type", "text", "role", "content")): value(
                    draw, depth + 1
                )
                for _ in range(draw.randrange(5))
            },
        ]
    return draw.choice(kinds)()


def image(draw: Random) -> bytes:
    """Return the bytes of an image, whole or damaged, of any shape."""
    sides = (1, 2, 3, 17, 64, 500, 4000)
    size = draw.choice(sides), draw.choice(sides[:5])
    mode = draw.choice(("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I", "F", "I;16"))
    file = io.BytesIO()
    made = Image.new(mode, size)
    try:
        made.save(file, draw.choice(FORMATS))
    except (OSError, ValueError, KeyError):
        made.convert("RGB").save(file, "PNG")
    content = bytearray(file.getvalue())
    for _ in range(draw.choice((0, 0, 0, 1, 20))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    if draw.random() < 0.1:
        del content[draw.randrange(len(content)) :]
    if draw.random() < 0.1:
        content += draw.randbytes(draw.randrange(200))
    return bytes(content)


def address(draw: Random) -> Any:
    """Return where an image is said to be."""
    if draw.random() < 0.25:
        return draw.choice((*ADDRESSES, value(draw)))
    letters = base64.b64encode(image(draw)).decode()
    if draw.random() < 0.1:
        place = draw.randrange(len(letters) + 1)
        letters = letters[:place] + draw.choice(("!", "=", "\n", "é", "%41", "")) + letters[place:]
    kind = draw.choice(("image/png", "image/jpeg", "", "text/html", "image/gif;charset=x", "é"))
    return f"data:{kind};base64,{letters}"


def part(draw: Random) -> Any:
    """Return a part of a message."""
    kinds = ("text", "image_url", "input_image", "audio")
    kind = draw.choices(kinds, weights=(40, 40, 15, 5))[0]
    found: Any = {"type": kind, "text": draw.choice(WORDS)}
    if "image" in kind:
        found = {
            "type": kind,
            "image_url": draw.choice(({"url": address(draw)}, address(draw))),
        }
    return found if draw.random() < 0.97 else value(draw)


def messages(draw: Random) -> Any:
    """Return a chat."""
    chat: list[Any] = []
    for _ in range(draw.randrange(1, 5)):
        parts = [part(draw) for _ in range(draw.randrange(4))]
        words = draw.choice(WORDS)
        content = draw.choices((parts, words, value(draw)), weights=(60, 32, 8))[0]
        roles = ("user", "assistant", "system", "developer", "tool", 3)
        role = draw.choices(roles, weights=(70, 10, 10, 6, 2, 2))[0]
        chat.append({"role": role, "content": content} if draw.random() < 0.98 else value(draw))
    return chat


def asked(draw: Random, **more: Any) -> dict[str, Any]:
    """Return a request that is right."""
    return {"model": "fuzzed", "messages": [{"role": "user", "content": "What is on the table?"}],
            "max_tokens": draw.randrange(1, 9), "stream": draw.random() < 0.5, **more}  # fmt: skip


# The kinds of requests, each from its own randomness.


def of_parameters(draw: Random) -> Attack:
    """Parameters of any value."""
    body = asked(draw)
    for _ in range(draw.randrange(1, 4)):
        body[draw.choice(PARAMETERS)] = value(draw)
    body["max_tokens"] = body["max_tokens"] if draw.random() < 0.1 else 4
    return Attack("parameters", http("POST", CHAT, written(body)))


def of_sampling(draw: Random) -> Attack:
    """Sampling that may be meant, in any combination."""
    body = asked(
        draw,
        temperature=draw.choice((0, 1e-9, 1e-3, 1, 2)),
        top_p=draw.choice((1e-9, 1e-3, 0.5, 1)),
        top_k=draw.choice((-1, 0, 1, 5, 10**6)),
        seed=draw.choice((None, None, 0, -1, 2**63 - 1, -(2**70))),
        stop=draw.choice((None, "a", ["a", " "], ["."], ["\n"] * 4)),
        n=draw.choice((1, 1, 2, 8)),
        logprobs=True,
        top_logprobs=draw.choice((0, 1, 20)),
        stream_options={"include_usage": True},
    )
    return Attack("sampling", http("POST", CHAT, written(body)))


def of_messages(draw: Random) -> Attack:
    """Chats of any form."""
    return Attack("messages", http("POST", CHAT, written(asked(draw, messages=messages(draw)))))


def of_images(draw: Random) -> Attack:
    """A right question about a wrong image."""
    content = [{"type": "image_url", "image_url": {"url": address(draw)}} for _ in range(
        draw.choice((1, 1, 1, 1, 2, 2, 8, 33)))]  # fmt: skip
    body = asked(draw, messages=[{"role": "user", "content": content}])
    return Attack("images", http("POST", CHAT, written(body)))


def of_bytes(draw: Random) -> Attack:
    """Bodies that are hardly JSON."""
    body = bytearray(written(asked(draw)))
    how = draw.randrange(6)
    if how == 0:
        del body[draw.randrange(len(body)) :]
    elif how == 1:
        for _ in range(draw.randrange(1, 9)):
            body[draw.randrange(len(body))] = draw.randrange(256)
    elif how == 2:
        body = bytearray(
            draw.choice((b"[", b'{"a":', b"\x00", b"\xff\xfe", b"\xef\xbb\xbf")) * 3000
        )
    elif how == 3:
        body = bytearray(draw.randbytes(draw.randrange(2000)))
    elif how == 4:
        body = bytearray(body.decode().encode(draw.choice(("utf-16", "utf-32", "utf-8-sig"))))
    else:
        body = bytearray(b'{"max_tokens": 1' + b"0" * draw.choice((5, 5000, 50000)) + b"}")
    return Attack("bytes", http("POST", CHAT, bytes(body)))


def of_headers(draw: Random) -> Attack:
    """Headers, methods and paths of any kind."""
    method = draw.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X" * 40))
    path = draw.choice((CHAT, "/v1//models", "/v1/models/fuzzed", "/v1/models/" + "%2e%2e/" * 9,
                          "/health", "/metrics", "/version", "/%00", "/" + "a" * 5000, "//", "/é",
                          "/v1/models/\udcff", "/?" + "q" * 900,
                           "/v1/chat/completions/"))  # fmt: skip
    headers = {draw.choice(("Content-Length", "Transfer-Encoding", "Authorization", "Host",
                              "Content-Type", "Expect", "Upgrade", "Cookie", "X-A")):
               draw.choice(("", "-1", "5", "chunked", "Bearer \udcff", "a" * 9000, "100-continue",
                              "websocket", "é", "application/xml", "99999999999999999999"))
               for _ in range(draw.randrange(4))}  # fmt: skip
    return Attack("headers", http(method, path, b"{}", headers), broken=True)


def of_frames(draw: Random) -> Attack:
    """What is no whole HTTP: cut bodies, damaged bytes, chunks that lie."""
    raw = bytearray(http("POST", CHAT, written(asked(draw))))
    how = draw.randrange(3)
    if how == 0:
        del raw[draw.randrange(len(raw)) :]
    elif how == 1:
        for _ in range(draw.randrange(1, 6)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
    else:
        raw = bytearray(http("POST", CHAT, draw.choice((b"5\r\nab", b"zz\r\n", b"0\r\n\r\n")),
                             {"Content-Length": "", "Transfer-Encoding": "chunked"}))  # fmt: skip
    return Attack("frames", bytes(raw), broken=True)


def of_leaving(draw: Random) -> Attack:
    """A client that goes away in the middle of an answer."""
    body = asked(draw, max_tokens=draw.choice((50, 400)), stream=draw.random() < 0.8)
    raw = http("POST", CHAT, written(body))
    return Attack("leaving", raw, read=draw.choice((0, 1, 200, 600, 1500)))


KINDS = (of_parameters, of_sampling, of_messages, of_images, of_bytes, of_headers, of_frames,
         of_leaving)  # fmt: skip


def written(body: Any) -> bytes:
    """Return JSON as bytes; what is no UTF-8 is escaped, or not, as it comes."""
    text = json.dumps(body, ensure_ascii=len(str(body)) % 2 == 0)
    return text.encode("utf-8", "surrogatepass")


def attacks(number: int, seed: int) -> Iterator[Attack]:
    """Yield as many requests, the same ones for one seed."""
    for each in range(number):
        drawn = Random(f"{seed}/{each}")
        yield drawn.choice(KINDS)(drawn)
