"""The OCR pieces by themselves, and a real recogniser that reads with them."""

from __future__ import annotations

import numpy as np
import pytest
from support.real_models import real_model

import ingot
from ingot.errors import IngotError
from ingot.zoo import ocr


def test_lines_are_repeatable() -> None:
    assert ocr.random_lines(5, seed=3) == ocr.random_lines(5, seed=3)
    assert ocr.random_lines(5, seed=3) != ocr.random_lines(5, seed=4)


def test_a_rendered_line_is_black_on_white() -> None:
    image = ocr.render("Ingot")
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert image[0].min() == 255 and image.min() < 64


def test_preprocessing_keeps_proportions_and_pads_with_zeros() -> None:
    pixels = ocr.preprocess(np.full((24, 50, 3), 255, np.uint8), width=320)
    assert pixels.shape == (3, 48, 320) and pixels.dtype == np.float32
    assert (pixels[:, :, :100] == 1).all() and (pixels[:, :, 100:] == 0).all()


def test_a_long_line_is_squeezed() -> None:
    pixels = ocr.preprocess(np.zeros((48, 1000, 3), np.uint8), width=320)
    assert (pixels == -1).all()


def test_colours_are_blue_first() -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    image[:, :, 0] = 255  # red
    pixels = ocr.preprocess(image, width=48)
    assert (pixels[2] == 1).all() and (pixels[:2] == -1).all()


def test_decoding_drops_blanks_and_repetitions() -> None:
    scores = np.eye(4, dtype=np.float32)[[[0, 1, 1, 0, 1, 2, 3, 3, 0], [0] * 9]]
    assert ocr.decode(scores, ("", "a", "b", " ")) == ["aab ", ""]


def test_decoding_wants_a_class_for_each_character() -> None:
    with pytest.raises(IngotError, match="do not fit"):
        ocr.decode(np.zeros((1, 2, 3)), ("", "a"))


@pytest.mark.models
def test_a_model_without_characters_is_refused() -> None:
    with pytest.raises(IngotError, match="no table of characters"):
        ocr.characters(real_model("ocr_cls"))


@pytest.mark.models
def test_rendered_lines_are_read_exactly() -> None:
    path = real_model("ocr_rec")
    engine = ingot.build(path, target="cpu", shapes={"x": [10, 3, ocr.HEIGHT, ocr.WIDTH]}, opt_level=2)
    context, table = engine.context(), ocr.characters(path)
    lines = ocr.random_lines(100)
    read: list[str] = []
    for start in range(0, 100, 10):
        batch = np.stack([ocr.preprocess(ocr.render(line)) for line in lines[start : start + 10]])
        (scores,) = context.run({"x": batch}).values()
        read += ocr.decode(scores, table)
    wrong = [(line, text) for line, text in zip(lines, read, strict=True) if line != text]
    assert len(wrong) <= 5, wrong
