"""Sample inputs that mean something to their model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from support.real_models import real_model

from ingot.zoo.inputs import sample_inputs


def test_print_is_black_on_white_and_follows_the_batch() -> None:
    image = sample_inputs("ocr_det", batch=2)["x"]
    assert image.shape == (2, 3, 640, 640) and image.dtype == np.float32
    assert set(np.unique(image)) == {-1.0, 1.0}
    assert np.array_equal(image[:, 0], image[:, 2]) and not np.array_equal(image[0], image[1])


def test_a_line_has_one_row_of_print() -> None:
    rows = (sample_inputs("ocr_rec")["x"][0, 0] < 0).any(axis=1)
    assert 24 <= rows.sum() <= 32 and not rows[:8].any() and not rows[-8:].any()


@pytest.mark.models
def test_the_detector_finds_text_in_its_sample() -> None:
    session = onnxruntime.InferenceSession(real_model("ocr_det"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, sample_inputs("ocr_det"))
    assert found.max() > 0.9 and 0.02 < (found > 0.3).mean() < 0.5
