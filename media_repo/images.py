"""Making images smaller. Nothing said of an image is believed: its format is what the decoder finds.

The input is hostile. What bounds the work: four formats and no others; the number of pixels, known from the head before
anything is decoded; for animations the pixels of all frames, and their number. What is no such image, or broken, is
CannotThumbnail, whatever the decoder made of it. These functions block: call them in a thread.

Spec: client-server-api#thumbnails
"""

from __future__ import annotations

from io import BytesIO
from typing import IO, Final

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from media_repo.thumbnail_sizes import CannotThumbnail, ImageTooLarge, Made, Size, Wanted, cut_size, scaled_size

TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
MAX_FRAMES: Final = 1000
JPEG_QUALITY: Final = 85
WEBP_QUALITY: Final = 80
_ORIENTATION: Final = 0x0112
_FIRST_TURNED: Final = 5  # from here on width and height change places
_DEFAULT_FRAME_MS: Final = 100
_MAX_FRAME_MS: Final = 60_000


def make_thumbnail(file: IO[bytes], wanted: Wanted, max_pixels: int) -> Made:
    """Raises: CannotThumbnail, ImageTooLarge."""
    try:
        with Image.open(file, formats=tuple(TYPES)) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge()
            return _make(image, wanted, max_pixels)
    except (CannotThumbnail, ImageTooLarge):
        raise
    except Image.DecompressionBombError:
        raise ImageTooLarge() from None
    except (
        Exception
    ) as error:  # decoders of broken input raise anything: OSError, SyntaxError, struct.error, IndexError…
        raise CannotThumbnail(str(error)) from error


def _make(image: ImageFile, wanted: Wanted, max_pixels: int) -> Made:
    size = _upright_size(image)
    scaled = scaled_size(size, wanted)
    is_whole = scaled == size and cut_size(scaled, wanted) == size
    moves = bool(getattr(image, "is_animated", False))
    if is_whole and moves <= wanted.animated:
        return Made(TYPES[image.format or ""], None)
    if moves and wanted.animated:
        frames = _count_frames(image, cut_size(scaled, wanted), max_pixels)
        if frames is not None:
            return _make_animated(image, wanted, frames)
    return _make_still(image, wanted)


def _upright_size(image: Image.Image) -> Size:
    turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    return (image.height, image.width) if turned else image.size


# -- pictures ------------------------------------------------------------------------------------------------------------


def _make_still(image: ImageFile, wanted: Wanted) -> Made:
    longest = max(scaled_size(_upright_size(image), wanted))
    image.draft(None, (longest, longest))  # a JPEG is decoded no larger than needed
    ImageOps.exif_transpose(image, in_place=True)
    shrunk = _shrink(image, wanted)
    target = BytesIO()
    if shrunk.mode == "RGBA":
        shrunk.save(target, "PNG")
        return Made("image/png", target.getvalue())
    shrunk.save(target, "JPEG", quality=JPEG_QUALITY, progressive=True)
    return Made("image/jpeg", target.getvalue())


def _shrink(image: Image.Image, wanted: Wanted) -> Image.Image:
    """As RGB, or RGBA where parts may be transparent; without what else the file says."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    picture = image if image.mode == mode else image.convert(mode)
    scaled = scaled_size(picture.size, wanted)
    if scaled != picture.size:
        picture = picture.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=2.0)
    width, height = cut_size(scaled, wanted)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    picture = picture.crop((left, top, left + width, top + height))
    picture.info.clear()
    return picture


# -- animations ----------------------------------------------------------------------------------------------------------


def _count_frames(image: ImageFile, size: Size, max_pixels: int) -> int | None:
    """None where there are too many to be worked through, or to be held in memory once they are small."""
    most = min(MAX_FRAMES, 2 * max_pixels // (image.width * image.height), max_pixels // (size[0] * size[1]))
    for number in range(1, most + 1):
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return number
    image.seek(0)
    return None


def _make_animated(image: ImageFile, wanted: Wanted, frames: int) -> Made:
    pictures, durations_ms = [], []
    for number in range(frames):
        image.seek(number)
        image.load()
        durations_ms.append(_duration_ms(image))
        pictures.append(_shrink(image, wanted))
    target = BytesIO()
    pictures[0].save(
        target,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations_ms,
        loop=0,
        quality=WEBP_QUALITY,
        method=0,
    )
    return Made("image/webp", target.getvalue())


def _duration_ms(frame: Image.Image) -> int:
    return min(max(int(frame.info.get("duration") or _DEFAULT_FRAME_MS), 1), _MAX_FRAME_MS)
