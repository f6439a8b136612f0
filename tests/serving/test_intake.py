"""Untrusted images: every way in that was abused elsewhere is refused in a sentence."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import pack
from typing import Any

import httpx2
import pytest
from PIL import Image

from laterna.serving.intake import IntakeSettings, RefusedImageError, decode_image, read_image

SETTINGS = IntakeSettings(hosts=("images.example", "*.cdn.example"))
PUBLIC = "93.184.216.34"


def open_image(address: str, settings: IntakeSettings, **network: Any) -> Image.Image:
    return decode_image(read_image(address, settings, **network), settings)


def packed(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


RED = packed(Image.new("RGB", (6, 4), "red"))


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def refused(address: str, settings: IntakeSettings = SETTINGS, **network: object) -> str:
    with pytest.raises(RefusedImageError) as caught:
        open_image(address, settings, **network)  # type: ignore[arg-type]
    assert "/" not in str(caught.value).replace("data:image/png", "").replace("https://", "")
    assert "0x" not in str(caught.value)
    return caught.value.code


def public(_: str, __: int) -> Sequence[str]:
    return [PUBLIC]


class Web:
    """Answers by path and remembers where connections went and what host was asked."""

    def __init__(self, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._answer = answer
        self.transport = httpx2.MockTransport(self._handle)

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.url.host, request.headers["host"]))
        return self._answer(request)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_formats_are_known_by_content(form: str) -> None:
    content = packed(Image.new("RGB", (6, 4), "red"), form)
    found = open_image(data_url(content, "image/x-whatever"), SETTINGS)
    assert (found.mode, found.size) == ("RGB", (6, 4))
    red, green, blue = found.getpixel((1, 1))
    assert red > 200 and green < 60 and blue < 60


def test_data_urls_of_several_kinds() -> None:
    letters = base64.b64encode(RED).decode()
    for address in (
        f"DATA:image/png;charset=x;BASE64,{letters}",
        f"data:;base64,{letters.rstrip('=')}",
        "data:image/png;base64,"
        + "\n".join(letters[i : i + 20] for i in range(0, 80, 20))
        + letters[80:],
        "data:image/png;base64," + base64.urlsafe_b64encode(RED).decode(),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in RED),
    ):
        assert open_image(address, SETTINGS).getpixel((0, 0)) == (255, 0, 0)


def test_orientation_and_transparency_are_as_in_training() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_image(data_url(packed(Image.new("RGB", (6, 4)), "JPEG", exif=exif)), SETTINGS)
    assert turned.size == (4, 6)
    clear = packed(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert open_image(data_url(clear), SETTINGS).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_images_are_taken(size: tuple[int, int]) -> None:
    assert open_image(data_url(packed(Image.new("RGB", size))), SETTINGS).size == size


def test_local_files_and_other_schemes_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    path = str(tmp_path / "a.png")
    for address in (path, f"file://{path}", "ftp://images.example/a.png", "", "x", "javascript:1",
                    "//images.example/a.png", "gopher://images.example"):  # fmt: skip
        assert refused(address) == "invalid_image_url"


def test_nothing_is_fetched_without_a_host_that_is_named() -> None:
    web = Web(lambda _: httpx2.Response(200, content=iter([RED])))
    network = {"resolve": public, "transport": web.transport}
    assert refused("https://images.example/a.png", IntakeSettings(), **network) == (
        "image_host_not_allowed"
    )
    for host in ("other.example", "images.example.evil.example", "evilcdn.example", "cdn.example",
                 "images.example@evil.example", "evil.example#images.example"):  # fmt: skip
        assert refused(f"https://{host}/a.png", **network) in (
            "image_host_not_allowed",
            "invalid_image_url",
        )
    assert web.asked == []


def test_a_named_host_is_fetched_from_the_address_that_was_looked_at() -> None:
    web = Web(lambda _: httpx2.Response(200, content=iter([RED])))
    for host in ("images.example", "IMAGES.example.", "a.b.cdn.example"):
        found = open_image(
            f"https://{host}/a.png", SETTINGS, resolve=public, transport=web.transport
        )
        assert found.size == (6, 4)
    assert {where for where, _ in web.asked} == {PUBLIC}
    assert web.asked[0][1] == "images.example"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.8", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
     "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::", "::"],
)  # fmt: skip
def test_private_addresses_are_refused_after_resolution(address: str) -> None:
    web = Web(lambda _: httpx2.Response(200, content=iter([RED])))
    for found in ([address], [PUBLIC, address]):
        code = refused(
            "http://images.example/a.png",
            resolve=lambda *_, found=found: found,
            transport=web.transport,
        )
        assert code == "image_host_not_allowed"
    assert web.asked == []


def test_each_hop_of_a_redirect_is_looked_at() -> None:
    def to(place: str) -> Web:
        return Web(
            lambda request: (
                httpx2.Response(200, content=iter([RED]))
                if request.url.path == "/end.png"
                else httpx2.Response(302, headers={"location": place})
            )
        )

    web = to("/end.png")
    start = "https://images.example/a.png"
    assert open_image(start, SETTINGS, resolve=public, transport=web.transport).size == (6, 4)
    for place in ("http://127.0.0.1/end.png", "http://evil.example/end.png"):
        web = to(place)
        assert refused(start, resolve=public, transport=web.transport) == "image_host_not_allowed"
        assert len(web.asked) == 1
    for place in ("file:///etc/passwd", "ftp://images.example/"):
        assert refused(start, resolve=public, transport=to(place).transport) == "invalid_image_url"
    web = to("/again.png")
    assert refused(start, resolve=public, transport=web.transport) == "image_unreachable"
    assert len(web.asked) == 1 + SETTINGS.redirects
    rebound = iter([[PUBLIC], ["127.0.0.1"]])
    web = to("/end.png")
    code = refused(start, resolve=lambda *_: next(rebound), transport=web.transport)
    assert (code, len(web.asked)) == ("image_host_not_allowed", 1)


def test_what_fails_on_the_way_is_told_without_details() -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection to 10.9.8.7 refused")

    for answer in (fail, lambda _: httpx2.Response(404), lambda _: httpx2.Response(500)):
        web = Web(answer)
        assert (
            refused("http://images.example/a.png", resolve=public, transport=web.transport)
            == "image_unreachable"
        )

    def nowhere(_: str, __: int) -> Sequence[str]:
        raise OSError("no such host")

    assert refused("http://images.example/a", resolve=nowhere) == "image_unreachable"


def test_bodies_are_bounded_as_they_come() -> None:
    sent = 0

    def endless() -> object:
        nonlocal sent
        while True:
            sent += 1
            yield b"\x89PNG" + bytes(100_000)

    web = Web(lambda _: httpx2.Response(200, content=endless()))  # type: ignore[arg-type]
    small = IntakeSettings(hosts=("images.example",), max_bytes=1_000_000)
    code = refused("http://images.example/a", small, resolve=public, transport=web.transport)
    assert code == "image_too_large"
    assert sent < 15
    assert refused(data_url(bytes(1_000_100)), small) == "image_too_large"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 30,000 by 30,000 pixels."""
    head = pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def test_bombs_in_what_stands_beside_the_pixels_are_refused() -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(200 * 10**6), 9)
    content = RED[:33] + chunk(b"zTXt", text) + RED[33:]
    assert len(content) < 250_000
    assert refused(data_url(content)) == "invalid_image"


def test_bombs_are_refused_before_they_are_decoded() -> None:
    assert refused(data_url(bomb())) == "image_too_large"
    assert refused(data_url(packed(Image.new("L", (9000, 2))))) == "image_too_large"
    assert refused(data_url(packed(Image.new("1", (8000, 7000))))) == "image_too_large"
    frames = [Image.new("P", (40, 40), number) for number in range(300)]
    moving = packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data_url(moving), SETTINGS).size == (40, 40)


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", RED[:40], RED[:-30], b"\x89PNG\r\n\x1a\n" + bytes(50), b"<svg/>", b"%PDF-1.4",
     b"BM" + bytes(60), b"II*\x00" + bytes(60), b"\xff\xd8\xff" + bytes(90)],
)  # fmt: skip
def test_what_is_no_whole_image_is_refused(content: bytes) -> None:
    assert refused(data_url(content)) == "invalid_image"


def test_formats_that_are_not_listed_are_not_decoded() -> None:
    for form in ("TIFF", "BMP", "PPM", "ICO", "EPS"):
        assert refused(data_url(packed(Image.new("RGB", (16, 16)), form))) == "invalid_image"


def test_damaged_data_urls_are_refused() -> None:
    assert refused("data:image/png;base64") == "invalid_image_url"
    assert refused("data:image/png;base64,###") == "invalid_base64"
    assert refused("data:image/png;base64,A") == "invalid_base64"
