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
    and a sample rate is its own value. ``batch`` replaces the batch dimension of every input that has one.
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
