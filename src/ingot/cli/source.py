"""What the commands take as MODEL: an engine, an ONNX file, or ``zoo:NAME``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.engine.format import MAGIC
from ingot.errors import IngotError
from ingot.options import Range, Shapes

if TYPE_CHECKING:
    import onnx

    from ingot.measure.inputs import Declared

Array = np.ndarray[Any, Any]
_ZOO = "zoo:"


@dataclass(frozen=True)
class Source:
    """A model to build, and what is known of its inputs."""

    text: str
    """As the user wrote it."""
    name: str
    model: Path | onnx.ModelProto
    shapes: Shapes = ()
    """Shapes for a build where the user gives none."""
    zoo: str = ""
    """``real``, ``architecture`` or nothing."""

    def build_shapes(self, given: Shapes) -> Shapes:
        """``given``, completed with the model's own for inputs that are not named."""
        named = {name for name, _ in given}
        return (*given, *((name, ranges) for name, ranges in self.shapes if name not in named))

    def feeds(self, inputs: Declared, seed: int) -> dict[str, Array]:
        """Sensible random arrays for ``inputs``: the zoo's own where it has them, normal numbers elsewhere."""
        from ingot.measure.inputs import random_feeds

        found = random_feeds(inputs, seed)
        sampled = self._sampled(inputs, seed) if self.zoo else {}
        for name, (dtype, shape) in inputs.items():
            array = sampled.get(name)
            if array is not None and array.dtype == found[name].dtype:
                found[name] = _resized(array, shape)
            assert str(found[name].dtype) == dtype
        return found

    def _sampled(self, inputs: Declared, seed: int) -> Mapping[str, Array]:
        if self.zoo == "real":
            from ingot.zoo.inputs import sample_inputs as sample_real

            return sample_real(self.name, seed)
        from ingot.zoo.architectures import sample_inputs

        assert not isinstance(self.model, Path)
        batch = next((shape[0] for _, shape in inputs.values() if shape), 1)
        return sample_inputs(self.model, batch, seed)


def open_source(text: str) -> Source:
    """The model that ``text`` names. Raises IngotError for an unknown zoo model or a missing file."""
    if text.startswith(_ZOO):
        return _from_zoo(text, text.removeprefix(_ZOO))
    path = Path(text)
    if not path.is_file():
        raise IngotError("there is no such file", node=text, fix="give an ONNX file, an engine, or zoo:NAME")
    return Source(text, path.stem, path)


def is_engine(text: str) -> bool:
    """Whether ``text`` is a path of an engine file."""
    if text.startswith(_ZOO):
        return False
    try:
        with open(text, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _from_zoo(text: str, name: str) -> Source:
    from ingot.zoo import architectures, cifar, fetch

    if name in cifar.NAMES:
        return Source(text, name, cifar.build(name), _fixed({"input": (1, 3, 32, 32)}))
    if name in architectures.names():
        model = architectures.build(name)
        shapes = {k: a.shape for k, a in architectures.sample_inputs(model).items()}
        return Source(text, name, model, _fixed(shapes), "architecture")
    if name not in fetch.names():
        known = ", ".join((*architectures.names(), *cifar.NAMES, *fetch.names()))
        raise IngotError(f"the zoo has no {name!r}", fix=f"take one of: {known}")
    return Source(text, name, fetch.fetch(name), _fixed(dict(fetch.find(name).shapes)), "real")


def _fixed(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return tuple((name, tuple(Range(size, size, size) for size in shape)) for name, shape in shapes.items())


def _resized(array: Array, shape: tuple[int, ...]) -> Array:
    """The sample at another shape: its numbers again and again, each copy a little shifted."""
    if array.shape == shape:
        return array
    count = math.prod(shape)
    flat = array.reshape(-1)
    if not flat.size:
        return np.zeros(shape, array.dtype)
    # A step that shares no factor with the length, so that rows of a batch differ.
    copies = [np.roll(flat, 7919 * i) for i in range(-(-count // flat.size))]
    return np.ascontiguousarray(np.concatenate(copies)[:count].reshape(shape)) if count else np.zeros(shape, flat.dtype)


def output_name(source: Source) -> str:
    """The engine's file where the user names none: beside where he stands."""
    return os.fspath(Path(source.name).with_suffix(".ingot").name)
