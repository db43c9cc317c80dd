"""Calibration data from folders, files, functions and arrays, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.errors import IngotError
from ingot.precision.data import Data, Options, open_data
from ingot.precision.inputs import Input

FREE = Input("x", np.dtype(np.float32), (None, 3, 8, 8))
FIXED = Input("x", np.dtype(np.float32), (1, 3, 8, 8))
TOKENS = Input("ids", np.dtype(np.int64), (None, 5))
IMAGES = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)


def _samples(data: Data) -> np.ndarray:
    return np.concatenate([batch.feeds["x"] for batch in data.batches()])


def test_arrays_are_cut_into_batches() -> None:
    data = open_data({"x": IMAGES, "labels": np.arange(20)}, [FREE], Options(batch=8))
    batches = list(data.batches())
    assert [b.samples for b in batches] == [8, 8, 4] and data.samples == 20
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches if b.labels is not None]), np.arange(20))
    np.testing.assert_array_equal(_samples(data), IMAGES)
    assert [b.samples for b in open_data(IMAGES, [FIXED]).batches()] == [1] * 20
    assert len(_samples(open_data(IMAGES, [FREE], Options(most=5)))) == 5


def test_whole_inputs_along_one_more_axis() -> None:
    data = open_data(IMAGES[:, None], [FIXED])
    assert [b.feeds["x"].shape for b in data.batches()] == [(1, 3, 8, 8)] * 20


def test_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=IMAGES)
    np.save(tmp_path / "a.npy", IMAGES)
    np.savez(tmp_path / "unnamed.npz", IMAGES)
    for name in ("a.npz", "a.npy", "unnamed.npz"):
        np.testing.assert_array_equal(_samples(open_data(tmp_path / name, [FREE])), IMAGES)


def test_a_folder_of_arrays_and_pictures(tmp_path: Path) -> None:
    from PIL import Image

    for index in range(3):
        np.save(tmp_path / f"{index}.npy", IMAGES[index])
    np.testing.assert_array_equal(_samples(open_data(tmp_path, [FREE])), IMAGES[:3])
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 255, 51
    for index in range(2):
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    made = _samples(open_data(pictures, [FREE], Options(pixels="unit")))
    assert made.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(made[0, :, 0, 0], [1, 0, 0.2], atol=1e-6)
    last = Input("x", np.dtype(np.float32), (None, 8, 8, 3))
    signed = open_data(pictures, [last], Options(pixels="signed"))
    np.testing.assert_allclose(_samples(signed)[0, 0, 0], [1, -1, -0.6], atol=1e-6)
    with pytest.raises(IngotError, match="not said how pixels become numbers"):
        open_data(pictures, [FREE])
    (pictures / "bad.png").write_bytes(b"no picture")
    with pytest.raises(IngotError, match=r"bad\.png: this is no picture"):
        list(open_data(pictures, [FREE], Options(pixels="unit")).batches())


def test_functions_and_iterables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_calibration_data.py").write_text(
        "import numpy as np\ndef samples():\n    for i in range(11):\n        yield np.full((3, 8, 8), i, np.float32)\n"
    )
    monkeypatch.chdir(tmp_path)
    data = open_data("my_calibration_data:samples", [FREE])
    assert [b.samples for b in data.batches()] == [8, 3]
    assert len(list(data.batches())) == 2  # it can be read again
    once = open_data(iter([{"x": image, "labels": 1} for image in IMAGES]), [FREE])
    np.testing.assert_array_equal(_samples(once), IMAGES)
    np.testing.assert_array_equal(_samples(once), IMAGES)
    with pytest.raises(IngotError, match="has no 'nothing'"):
        open_data("my_calibration_data:nothing", [FREE])
    with pytest.raises(IngotError, match="cannot import"):
        open_data("no_such_module:f", [FREE])


def test_samples_of_different_sizes() -> None:
    free = Input("x", np.dtype(np.float32), (None, 3, None, None))
    samples = [np.zeros((3, s, s), np.float32) for s in (4, 4, 8, 8, 8)]
    assert [b.feeds["x"].shape for b in open_data(samples, [free]).batches()] == [(2, 3, 4, 4), (3, 3, 8, 8)]


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        ("/no/such/place", [FREE], "no such file or folder"),
        ({"y": IMAGES}, [FREE], "x: the data has no array for it, only y"),
        (IMAGES, [FREE, TOKENS], "one array, the model has 2 inputs"),
        ({"x": IMAGES, "labels": np.arange(3)}, [FREE], "another number of samples"),
        (IMAGES[:0], [FREE], "is empty"),
        (IMAGES[:, :, :4], [FREE], "has the shape 8x3x4x8, the model takes \\?x3x8x8"),
        (IMAGES.astype(np.uint8), [FREE], "pixels have to be scaled first"),
        (np.full((4, 3, 8, 8), np.nan, np.float32), [FREE], "holds 768 NaN or infinite"),
        ([], [FREE], "is empty"),
        ([np.zeros((3, 8, 9), np.float32)], [FREE], "has the shape 1x3x8x9"),
        (np.zeros((4, 5), np.float32), [TOKENS], "holds float32, the model takes int64"),
        (np.zeros((2, 3, 8, 8), np.float32), [Input("x", np.dtype(np.float32), (4, 3, 8, 8))], "has 2 samples"),
    ],
)
def test_wrong_data(source: object, inputs: list[Input], message: str) -> None:
    with pytest.raises(IngotError, match=message):
        list(open_data(source, inputs).batches())  # type: ignore[arg-type]


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(IngotError, match="cannot read arrays"):
        open_data(tmp_path / "bad.npz", [FREE])
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngotError, match="holds no pictures"):
        open_data(tmp_path / "empty", [FREE])


def test_halves_and_doubles_are_converted() -> None:
    for kind in (np.float16, np.float64):
        batch = next(open_data(IMAGES.astype(kind), [FREE]).batches())
        assert batch.feeds["x"].dtype == np.float32
