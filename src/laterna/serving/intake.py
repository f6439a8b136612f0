"""Images from strangers: what an address in a chat request may be, and what of it is opened.

Data URLs are always taken. Addresses on the web are taken from named hosts alone: each hop of a
redirect is held against the list, its name is resolved once, private and link-local addresses are
refused, and the connection goes to the very address that was looked at. Files of this machine are
never opened by an address. What an image is, its bytes say.
"""

from __future__ import annotations

import base64
import binascii
import io
import ipaddress
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import httpx2
from PIL import Image

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.records import Record

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is opened, by content; of a moving image the first frame."""
_DATA = re.compile(r"data:(?P<kind>[^,;]*)(?P<options>(;[^,;]*)*),", re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
Resolver = Callable[[str, int], Sequence[str]]
"""The addresses (IPv4 or IPv6, as text) of a host and port."""


class IntakeSettings(Record):
    """Limits on images that come with requests."""

    hosts: tuple[str, ...] = ()
    """Hosts that images are fetched from, `example.org` or `*.example.org`; none: no fetching."""
    max_bytes: int = 20 * 10**6
    """Of one image as it is sent or fetched (OpenAI's own limit)."""
    max_pixels: int = 50 * 10**6
    """Width times height of one image."""
    request_pixels: int = 100 * 10**6
    """The same of all images of a request together: opened, they stand side by side in memory."""
    max_side: int = 8192
    """Longest side in pixels: padding makes a square of it."""
    timeout: float = 10.0
    """Seconds for fetching one image, all redirects together."""
    redirects: int = 3
    """Hops at most."""


class RefusedImageError(LaternaError):
    """An image that is not taken; the sentence may be shown to whoever sent it."""

    def __init__(self, code: str, message: str) -> None:
        """Keep a short word for programs beside the sentence for people."""
        super().__init__(message)
        self.code = code


def system_addresses(host: str, port: int) -> Sequence[str]:
    """Return the addresses that this machine knows for a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def read_image(
    address: str,
    settings: IntakeSettings,
    *,
    resolve: Resolver = system_addresses,
    transport: httpx2.BaseTransport | None = None,
) -> bytes:
    """Return the bytes behind an `image_url`, as they were sent or fetched.

    `resolve` and `transport` stand for the network in tests. Raises RefusedImageError for what is
    not allowed, too large or unreachable; nothing of this machine stands in its sentence.
    """
    scheme = address[:8].lower()
    if scheme.startswith("data:"):
        return _data(address, settings)
    if scheme.startswith(("http://", "https://")):
        return _fetched(address, settings, resolve, transport)
    raise RefusedImageError(
        "invalid_image_url",
        "an image address must be a data URL (data:image/png;base64,…) or begin with https://",
    )


def _data(address: str, settings: IntakeSettings) -> bytes:
    head = _DATA.match(address[:1000])
    if head is None:
        raise RefusedImageError(
            "invalid_image_url", "the data URL is not of the form data:image/png;base64,…"
        )
    _check_length(len(address) * 3 // 4 if "base64" in head["options"].lower() else len(address),
                  settings)  # fmt: skip
    body = address[head.end() :]
    if ";base64" not in head["options"].lower():
        return unquote_to_bytes(body)
    try:
        packed = unquote_to_bytes(body).translate(None, b" \t\r\n")
        padding = b"=" * (-len(packed) % 4)
        return base64.b64decode(packed + padding, altchars=_letters(packed), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedImageError(
            "invalid_base64", "the data URL's base64 is damaged; send the whole image"
        ) from error


def _letters(packed: bytes) -> bytes | None:
    """Return the last two letters of the alphabet, where it is the one for web addresses."""
    return b"-_" if b"-" in packed or b"_" in packed else None


def _check_length(length: int, settings: IntakeSettings) -> None:
    if length > settings.max_bytes + 2:
        raise RefusedImageError(
            "image_too_large",
            f"the image has more than {settings.max_bytes:,} bytes; send a smaller one",
        )


def _fetched(
    address: str,
    settings: IntakeSettings,
    resolve: Resolver,
    transport: httpx2.BaseTransport | None,
) -> bytes:
    deadline = time.monotonic() + settings.timeout
    made: dict[str, Any] = {"transport": transport} if transport is not None else {}
    with httpx2.Client(follow_redirects=False, trust_env=False, **made) as client:
        for _ in range(settings.redirects + 1):
            answer = _hop(client, address, settings, resolve, deadline)
            if isinstance(answer, bytes):
                return answer
            address = answer
    raise RefusedImageError(
        "image_unreachable", f"the image's address leads on more than {settings.redirects} times"
    )


def _hop(
    client: httpx2.Client,
    address: str,
    settings: IntakeSettings,
    resolve: Resolver,
    deadline: float,
) -> bytes | str:
    """Ask one address; return the image's bytes, or the address that it leads on to."""
    host, port, where = _allowed(address, settings, resolve)
    left = deadline - time.monotonic()
    if left <= 0:
        raise _unreachable("it took too long")
    parts = urlsplit(address)
    bare = f"[{where}]" if ":" in where else where
    pinned = parts._replace(netloc=f"{bare}:{port}", fragment="").geturl()
    try:
        with client.stream(
            "GET",
            pinned,
            headers={"Host": parts.netloc, "Accept": "image/*", "Accept-Encoding": "identity"},
            extensions={"sni_hostname": host},
            timeout=left,
        ) as response:
            if response.status_code in _REDIRECTS:
                return urljoin(address, response.headers.get("location", ""))
            if response.status_code != 200:
                raise _unreachable(f"its host answers {response.status_code}")
            return _body(response, settings, deadline)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise _unreachable("its host does not answer") from error


def _body(response: httpx2.Response, settings: IntakeSettings, deadline: float) -> bytes:
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        _check_length(len(content), settings)
        if time.monotonic() > deadline:
            raise _unreachable("it took too long")
    return bytes(content)


def _allowed(address: str, settings: IntakeSettings, resolve: Resolver) -> tuple[str, int, str]:
    """Return host, port and the one address to connect to; raise RefusedImageError for others."""
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError as error:
        raise RefusedImageError(
            "invalid_image_url", "the image's address cannot be read"
        ) from error
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise RefusedImageError("invalid_image_url", "the image's address is not one of the web")
    if parts.username is not None or parts.password is not None:
        raise RefusedImageError("invalid_image_url", "the image's address holds a password")
    if not any(_matches(host, pattern.lower()) for pattern in settings.hosts):
        raise RefusedImageError(
            "image_host_not_allowed",
            "this server fetches no images from that host; send the image as a data URL",
        )
    port = port or (443 if parts.scheme.lower() == "https" else 80)
    try:
        found = resolve(host, port)
    except OSError as error:
        raise _unreachable("its host has no address") from error
    if not found or not all(_is_public(one) for one in found):
        raise RefusedImageError(
            "image_host_not_allowed", "the image's host is not on the public network"
        )
    return host, port, found[0]


def _matches(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _is_public(address: str) -> bool:
    """Say whether an address is anyone's; what IPv6 wraps of IPv4 is unwrapped first."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if inside:
            found = inside
        elif found in ipaddress.ip_network("64:ff9b::/96"):
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast and not found.is_reserved


def _unreachable(why: str) -> RefusedImageError:
    return RefusedImageError("image_unreachable", f"the image cannot be fetched: {why}")


def image_size(content: bytes, settings: IntakeSettings) -> tuple[int, int]:
    """Return an image's width and height by its head alone; nothing is decoded.

    Raises RefusedImageError for what is too large or no image.
    """
    _check_length(len(content), settings)
    with _refusing(), Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        width, height = opened.size
        _check_size(width, height, settings)
        return width, height


def decode_image(content: bytes, settings: IntakeSettings) -> Image.Image:
    """Return the image in RGB, as a person sees it.

    The EXIF orientation is applied and transparency shows white, as in training. Raises
    RefusedImageError for what is too large or no image.
    """
    image_size(content, settings)
    with _refusing():
        return load_image(content, "the image")


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what a decoder raises into a sentence in which nothing of it stands."""
    damaged = RefusedImageError(
        "invalid_image",
        f"the image cannot be decoded; send a whole {', '.join(FORMATS[:-1])} or still GIF",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except RefusedImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedImageError("image_too_large", "the image has too many pixels") from error
    except (LaternaError, OSError, SyntaxError, ValueError, TypeError, LookupError,
            ArithmeticError, EOFError) as error:  # fmt: skip
        raise damaged from error


def _check_size(width: int, height: int, settings: IntakeSettings) -> None:
    if width * height > settings.max_pixels or max(width, height) > settings.max_side:
        raise RefusedImageError(
            "image_too_large",
            f"the image has {width}×{height} pixels; at most {settings.max_pixels:,} and "
            f"{settings.max_side:,} a side are taken",
        )
