"""Random but sensible inputs for the real models."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from ingot.zoo.fetch import find

_STATES = ("state", "h", "c")


def sample_inputs(name: str, seed: int = 0, batch: int | None = None) -> dict[str, npt.NDArray[np.generic]]:
    """One feed for the model ``name``: input name to array, always the same for the same ``seed``.

    Images and spectrograms are in [0, 1), audio in [-0.5, 0.5), recurrent states zero, bytes in 0..256,
    and a sample rate is its own value. The OCR models get something that looks like print: of mere noise the detector
    makes nothing but numbers around 1e-8, which say nothing about errors.
    ``batch`` replaces the batch dimension of every input that has one.
    """
    model = find(name)
    rates = dict(model.rates)
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for tensor, declared in model.shapes:
        shape = declared if batch is None else _batched(tensor, declared, batch)
        if tensor in rates:
            feeds[tensor] = np.asarray(rates[tensor], np.int64)
        elif tensor in _STATES:
            feeds[tensor] = np.zeros(shape, np.float32)
        elif tensor == "bytes":
            feeds[tensor] = random.integers(0, 257, shape, dtype=np.int32)
        elif name.startswith("ocr_"):
            feeds[tensor] = np.stack([_print(random, shape[1:]) for _ in range(shape[0])])
        elif len(shape) == 2:
            feeds[tensor] = random.random(shape, np.float32) - np.float32(0.5)
        else:
            feeds[tensor] = random.random(shape, np.float32)
    return feeds


def _batched(tensor: str, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """A state is (layers, batch, features), a scalar has no batch, and everything else leads with it."""
    if tensor in _STATES:
        return (shape[0], batch, *shape[2:])
    return (batch, *shape[1:]) if shape else shape


def _print(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Rows of random 5 x 7 characters, black (-1) on white (1): a page, or one line where there is room for no more."""
    height, width = shape[-2:]
    dot = max(1, height // 12) if height < 100 else 3
    wide, tall = 5 * dot, 7 * dot
    margin = (height - tall) // 2 if height < 100 else 2 * tall
    picture = np.ones((height, width), np.float32)
    for top in range(margin, height - margin - tall + 1, 5 * tall // 2):
        for left in range(2 * dot, width - wide - dot, wide + dot):
            if random.random() < 0.85:
                character = np.kron(random.random((7, 5)) < 0.5, np.ones((dot, dot), np.bool_))
                picture[top : top + tall, left : left + wide][character] = -1
    return np.broadcast_to(picture, shape).copy()
