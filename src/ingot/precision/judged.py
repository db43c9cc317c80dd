"""What a model is judged by: its outputs, and of class probabilities the scores that they are made of.

A probability near 0 or 1 hardly moves with its score, so a likeness of probabilities says little of their order; that
of the scores (the input of Softmax or Sigmoid) does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import maker
from ingot.precision.host import HostRuns
from ingot.precision.inputs import Array, Feeds

_MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_PROBABILITIES = ("LogSoftmax", "Sigmoid", "Softmax")
_FAR = 88.0
"""Scores farther away count as this far: e^-88 is no normal float32 any more, and masks are of any size."""


class Scores(NamedTuple):
    """The value inside a model that stands for an output."""

    value: str
    axis: int | None
    """Of the classes that share a probability of one; None where each has its own."""


def scores_of(output: ir.Value) -> Scores | None:
    """What the probabilities ``output`` are made of; None where it is something else."""
    value: ir.Value | None = output
    while (move := maker(value, *_MOVES)) is not None:
        value = move.inputs[0]
    node = maker(value, *_PROBABILITIES)
    made_of = None if node is None else node.inputs[0]
    if node is None or made_of is None or made_of.producer() is None:
        return None
    axis = node.attributes.get_int("axis", -1)
    return Scores(str(made_of.name), None if node.op_type == "Sigmoid" else axis)


def levelled(scores: Array, axis: int | None) -> Array:
    """Scores of which only what moves probabilities is left: differences between classes, or to even odds.

    Along ``axis`` their mean is 0, as Softmax takes no notice of it.
    """
    scores = scores.astype(np.float32)
    found: Array
    if axis is None:
        found = np.clip(scores, -_FAR, _FAR)
    else:
        most = scores.max(axis=axis, keepdims=True, initial=-np.finfo(np.float32).max)
        near = np.maximum(scores - most, -_FAR)
        found = near - near.mean(axis=axis, keepdims=True)
    return found


class JudgedRuns:
    """A model in ONNX Runtime that gives, under the names of its outputs, what they are judged by."""

    def __init__(self, model: ir.Model, *, inner: bool = False) -> None:
        """``inner`` and errors: as for :class:`HostRuns`."""
        self._scores = {str(output.name): scores_of(output) for output in model.graph.outputs}
        names = [name if scores is None else scores.value for name, scores in self._scores.items()]
        self._runs = HostRuns(model, list(dict.fromkeys(names)), inner=inner)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Arrays by output. Raises IngotError when ONNX Runtime fails on ``feeds``."""
        made = self._runs.run(feeds)
        return {
            name: made[name] if scores is None else levelled(made[scores.value], scores.axis)
            for name, scores in self._scores.items()
            if scores is not None or name in made
        }
