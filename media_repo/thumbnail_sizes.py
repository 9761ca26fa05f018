"""What is wanted of a thumbnail, what comes of it, and how large that is. Pure.

Spec: client-server-api#thumbnails
"""

from __future__ import annotations

from attrs import frozen

Size = tuple[int, int]


class CannotThumbnail(Exception):
    """It is no image that can be made smaller."""


class ImageTooLarge(Exception):
    """It has too many pixels."""


@frozen
class Wanted:
    """`width` and `height` bound the result; "crop" cuts off what exceeds their aspect, "scale" keeps all."""

    width: int
    height: int
    method: str
    animated: bool


@frozen
class Made:
    """A thumbnail. `content` None: the image is small enough to be its own."""

    content_type: str
    content: bytes | None


def scaled_size(size: Size, wanted: Wanted) -> Size:
    """What the image is scaled to, and never up."""
    ratios = (wanted.width / size[0], wanted.height / size[1])
    ratio = min(1.0, max(ratios) if wanted.method == "crop" else min(ratios))
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def cut_size(scaled: Size, wanted: Wanted) -> Size:
    """What is left of the scaled image."""
    return min(scaled[0], wanted.width), min(scaled[1], wanted.height)
