"""Making images smaller, also those that were made to break it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from media_repo.images import make_thumbnail
from media_repo.thumbnail_sizes import CannotThumbnail, ImageTooLarge, Made, Wanted, cut_size, scaled_size
from media_repo.thumbnails import FULL_SIZE, choose_size, parse_sizes
from tests.media_repo.pictures import BLUE, RED, animation, bomb, opened, picture

MAX_PIXELS = 1_000_000
SIZES = parse_sizes(["32x32", "96x96", "320x240", "320x320", "800x600"])
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make(content: bytes, width: int, height: int, method: str = "scale", *, animated: bool = False) -> Made:
    return make_thumbnail(BytesIO(content), Wanted(width, height, method, animated), MAX_PIXELS)


def made(content: bytes, width: int, height: int, method: str = "scale", *, animated: bool = False) -> Any:
    """The thumbnail, opened."""
    thumbnail = make(content, width, height, method, animated=animated)
    assert thumbnail.content is not None
    return opened(thumbnail.content)


@pytest.mark.parametrize(
    ("width", "height", "method", "size"),
    [
        (1, 1, "scale", (32, 32)),
        (33, 1, "scale", (96, 96)),
        (200, 200, "scale", (320, 240)),
        (200, 200, "crop", (320, 320)),
        (300, 200, "crop", (320, 240)),
        (801, 1, "scale", FULL_SIZE),
    ],
)
def test_the_smallest_size_that_is_large_enough(width: int, height: int, method: str, size: tuple[int, int]) -> None:
    assert choose_size(SIZES, Wanted(width, height, method, False)) == size


@pytest.mark.parametrize("size", ["0x5", "5", "5x", "axb", "-1x1", "123456x1"])
def test_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match=size):
        parse_sizes([size])


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000), st.integers(1, 2000))
@relaxed
def test_nothing_grows_and_crop_is_never_smaller_than_asked_for(width: int, height: int, wide: int, high: int) -> None:
    for method in ("scale", "crop"):
        wanted = Wanted(wide, high, method, False)
        scaled = scaled_size((width, height), wanted)
        cut = cut_size(scaled, wanted)
        assert 1 <= cut[0] <= scaled[0] <= width
        assert 1 <= cut[1] <= scaled[1] <= height
    assert cut == (min(width, wide), min(height, high))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_scale_keeps_the_whole_picture(kind: str) -> None:
    image = made(picture(400, 200, kind), 96, 96).convert("RGB")
    assert image.size == (96, 48)
    assert image.getpixel((5, 20)) == pytest.approx(RED, abs=20)
    assert image.getpixel((90, 20)) == pytest.approx(BLUE, abs=20)


def test_crop_keeps_the_middle() -> None:
    image = made(picture(400, 100), 96, 96, "crop")
    assert image.size == (96, 96)
    assert image.getpixel((5, 5)) == pytest.approx(RED, abs=20)
    assert image.getpixel((90, 90)) == pytest.approx(BLUE, abs=20)


@pytest.mark.parametrize(("kind", "content_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("GIF", "image/gif")])
def test_small_image_is_its_own_thumbnail(kind: str, content_type: str) -> None:
    assert make(picture(30, 20, kind), 32, 32) == Made(content_type, None)
    assert make(picture(30, 20, kind), *FULL_SIZE, "crop") == Made(content_type, None)


def test_transparency_is_kept() -> None:
    clear = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    target = BytesIO()
    clear.save(target, "PNG")
    image = made(target.getvalue(), 32, 32)
    assert (image.format, image.getpixel((9, 9))) == ("PNG", (0, 0, 0, 0))


def test_photograph_is_turned_upright_and_tells_nothing_else() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "where I live"
    content = picture(400, 200, "JPEG", exif=exif)
    image = made(content, 96, 96)
    assert image.size == (48, 96)
    assert image.getpixel((20, 5)) == pytest.approx(RED, abs=20)
    assert dict(image.getexif()) == {}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "CMYK"])
def test_every_kind_of_picture_gets_a_thumbnail(mode: str) -> None:
    image = (
        Image.new("RGB", (200, 100), RED).convert("L" if mode == "I;16" else mode.replace("LA", "RGBA")).convert(mode)
    )
    target = BytesIO()
    image.save(target, "JPEG" if mode == "CMYK" else "PNG")
    assert made(target.getvalue(), 32, 32).size == (32, 16)


# -- animations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animation_moves_only_for_those_who_want_it(kind: str) -> None:
    content = animation(200, 100, 3, kind)
    still, moving = made(content, 32, 32), made(content, 32, 32, animated=True)
    assert (getattr(still, "n_frames", 1), still.size) == (1, (32, 16))
    assert (moving.n_frames, moving.size, moving.format) == (3, (32, 16), "WEBP")


def test_small_animation_stands_still_for_those_who_do_not_want_it() -> None:
    content = animation(20, 10, 3)
    assert getattr(made(content, 32, 32), "n_frames", 1) == 1
    assert make(content, 32, 32, animated=True) == Made("image/gif", None)


def test_animation_of_too_many_pixels_stands_still() -> None:
    content = animation(200, 101, 100)  # 2 million
    assert getattr(made(content, 32, 32, animated=True), "n_frames", 1) == 1


# -- hostile -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(ImageTooLarge):
        make(bomb(width, height), 32, 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_image_is_refused(kind: str) -> None:
    content = picture(400, 200, kind)
    with pytest.raises(CannotThumbnail):
        make(content[: len(content) // 2], 32, 32)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM", "PDF"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(CannotThumbnail):
        make(picture(40, 20, kind), 32, 32)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"<svg/>"]
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(CannotThumbnail):
        make(content, 32, 32)


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]), st.integers(0, 10_000), st.binary(max_size=8), st.booleans())
@relaxed
def test_no_damage_is_too_strange(kind: str, place: int, damage: bytes, animated: bool) -> None:
    content = animation(60, 40, 3, kind) if kind != "JPEG" else picture(60, 40, kind)
    place %= len(content)
    try:
        thumbnail = make(content[:place] + damage + content[place + len(damage) :], 32, 32, animated=animated)
    except (CannotThumbnail, ImageTooLarge):
        return
    assert thumbnail.content_type.startswith("image/")
