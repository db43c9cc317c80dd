"""Text lines for the OCR recogniser of the zoo: drawn, put into its input, read from its output."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.errors import IngotError

HEIGHT = 48
"""Pixels of a line, as the recogniser wants them."""
WIDTH = 320
"""Pixels that a line is padded or squeezed to, unless told otherwise."""
_FONT_SIZE = 36
_MARGIN = 4
_BLANK = 0
"""Class of the output that stands for "nothing new here" (connectionist temporal classification)."""
_WORDS = (
    "anchor", "bridge", "copper", "driver", "engine", "filter", "garden", "hammer", "island", "jacket", "kernel",
    "ladder", "market", "needle", "orange", "planet", "quartz", "ribbon", "silver", "tunnel", "violet", "window",
)  # fmt: skip

Image = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]


def random_lines(count: int, seed: int = 0) -> list[str]:
    """``count`` short lines of words and numbers, always the same for the same ``seed``."""
    generator = random.Random(seed)

    def word() -> str:
        if generator.random() < 0.4:
            return str(generator.randrange(10, 100000))
        text = generator.choice(_WORDS)
        return generator.choice((text, text.capitalize(), text.upper()))

    return [" ".join(word() for _ in range(generator.choice((1, 2, 2)))) for _ in range(count)]


def render(text: str, size: int = _FONT_SIZE) -> Image:
    """``text`` in black on white: uint8 of shape [height, width, 3], RGB, in Pillow's own font of ``size`` pixels.

    Raises IngotError when Pillow is missing or was built without FreeType.
    """
    try:
        from PIL import Image as Pictures
        from PIL import ImageDraw, ImageFont
    except ImportError:
        raise IngotError("Pillow, which draws the text, is not installed", fix="pip install pillow") from None
    try:
        font = ImageFont.load_default(size)
    except (ImportError, OSError) as error:
        raise IngotError(f"Pillow has no scalable font: {error}", fix="install Pillow with FreeType") from None
    assert not isinstance(font, ImageFont.ImageFont), "the default font with a size is a scalable one"
    ascent, descent = font.getmetrics()
    shape = (round(font.getlength(text)) + 2 * _MARGIN, ascent + descent + 2 * _MARGIN)
    picture = Pictures.new("RGB", shape, "white")
    ImageDraw.Draw(picture).text((_MARGIN, _MARGIN), text, font=font, fill="black")
    return np.asarray(picture)


def preprocess(image: Image, width: int = WIDTH) -> Pixels:
    """A picture as the recogniser reads it: float32 of shape [3, 48, ``width``], BGR, in [-1, 1].

    ``image``: uint8 of shape [height, width, 3], RGB. Its proportions are kept; what is left of the width is
    filled with zeros, and a longer line is squeezed.
    """
    from PIL import Image as Pictures

    height, across = image.shape[:2]
    scaled = min(width, max(1, round(across * HEIGHT / height)))
    picture = Pictures.fromarray(image).resize((scaled, HEIGHT), Pictures.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    padded = np.zeros((3, HEIGHT, width), np.float32)
    padded[:, :, :scaled] = (pixels / 255 - 0.5) / 0.5
    return padded


def characters(model: str | os.PathLike[str]) -> tuple[str, ...]:
    """The text of each class of the recogniser in the file ``model``; that of the blank is empty.

    Raises IngotError when the file holds no table of characters.
    """
    import onnx

    proto = onnx.load(os.fspath(model), load_external_data=False)
    table = next((entry.value for entry in proto.metadata_props if entry.key == "character"), None)
    if table is None:
        raise IngotError("the model holds no table of characters", node=str(model), fix="give a PP-OCR recogniser")
    return ("", *table.splitlines(), " ")


def decode(scores: npt.NDArray[Any], table: Sequence[str]) -> list[str]:
    """The text of each line: the best class of each step, repetitions and blanks left out.

    ``scores``: [lines, steps, classes], a class for each entry of ``table``. Raises IngotError for another number.
    """
    if scores.ndim != 3 or scores.shape[2] != len(table):
        raise IngotError(f"scores of shape {list(scores.shape)} do not fit {len(table)} characters")
    found = []
    for classes in scores.argmax(axis=2):
        changed = np.concatenate(([True], classes[1:] != classes[:-1]))
        found.append("".join(table[i] for i in classes[changed & (classes != _BLANK)]))
    return found
