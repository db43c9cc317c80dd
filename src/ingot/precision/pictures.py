"""Pictures from files as a model's input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.precision.inputs import Array, Input

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = {
    "unit": "0 to 1",
    "signed": "-1 to 1",
    "raw": "0 to 255",
    "imagenet": "0 to 1, less ImageNet's mean, over its deviation",
    "raw_bgr": "0 to 255, blue first",
}
"""How 8-bit pixels become numbers."""


@dataclass(frozen=True)
class Reader:
    """Reads a picture for one input."""

    height: int
    width: int
    channels: int
    channels_last: bool
    pixels: str

    def read(self, path: Path) -> Array:
        """float32 of the input's shape without its first axis. Raises IngotError for a file that is no picture."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as file:
                picture = file.convert("RGB" if self.channels == 3 else "L")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise IngotError(f"this is no picture: {error}", node=str(path), fix="take it out of the folder") from None
        scale = max(self.width / picture.width, self.height / picture.height)
        size = (max(self.width, round(picture.width * scale)), max(self.height, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        picture = picture.crop((left, top, left + self.width, top + self.height))
        numbers = self._scaled(np.asarray(picture, np.float32).reshape(self.height, self.width, self.channels))
        return np.ascontiguousarray(numbers if self.channels_last else numbers.transpose(2, 0, 1))

    def _scaled(self, numbers: Array) -> Array:
        if self.pixels == "raw":
            return numbers
        if self.pixels == "raw_bgr":
            return numbers[:, :, ::-1]
        if self.pixels == "signed":
            return numbers / 127.5 - 1
        numbers = numbers / 255
        if self.pixels == "imagenet":
            numbers = (numbers - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)
        return np.asarray(numbers, np.float32)


def reader_for(given: Input, pixels: str | None) -> Reader:
    """A Reader for an input of shape [batch, channels, height, width] or [batch, height, width, channels].

    Pictures are scaled until they cover the input and cropped in the middle. Raises IngotError when the input is no
    such picture, its size is free, or ``pixels`` is not one of ``PIXELS``: a guess would calibrate for other numbers.
    """
    if pixels not in PIXELS:
        meaning = "; ".join(f"{name}: {text}" for name, text in PIXELS.items())
        said = f"there are no pixels {pixels!r}" if pixels else "it is not said how pixels become numbers"
        raise IngotError(said, node=given.name, fix=f"take one of: {meaning}")
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise IngotError("Pillow, which reads pictures, is not installed", fix="pip install pillow") from None
    dims: tuple[Any, ...] = given.shape
    if given.dtype != np.float32 or len(dims) != 4 or not {dims[1], dims[3]} & {1, 3}:
        raise IngotError(f"this input takes no pictures: {given.dtype} {given.text}", node=given.name, fix="give .npz")
    last = dims[3] in (1, 3)
    channels, height, width = (dims[3], dims[1], dims[2]) if last else (dims[1], dims[2], dims[3])
    if height is None or width is None:
        raise IngotError(
            f"its height and width are free ({given.text}), so pictures have no size", node=given.name,
            fix="fix them (--shapes), or give arrays as .npz",
        )  # fmt: skip
    assert pixels is not None
    return Reader(height, width, channels, last, pixels)
