"""LSTM, GRU and RNN: what their attributes say, and their form without the product of the inputs.

An op of ONNX multiplies every step's input by W first, which needs no state: that is one product over all steps.
What is left is an op of domain ``ingot`` with the name, attributes and operands of ONNX's, but instead of X the
product ``X W^T`` (``[steps, batch, directions * gates * hidden]``; the batch first with ``layout=1``), and no W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp

DOMAIN = "ingot"
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
"""Gates in the order of ONNX: LSTM i, o, f, c; GRU z, r, h."""
X, W, R, B, LENGTHS, H0, C0, P = range(8)
"""Operands."""
SWAPPED = (1, 0, 2)
"""Order in which steps, or directions, and batch change places."""
BATCH_FIRST = (2, 0, 1, 3)
"""Order of the results of a layer, ``[steps, directions, batch, hidden]``, with the batch outermost."""
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
PARAMETERS = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01,),
    "Relu": (),
    "ScaledTanh": (1.0, 1.0),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": (1.0,),
}
"""Activations, and the defaults of alpha and beta for those that have them."""


@dataclass(frozen=True)
class Activation:
    """A function of the gates."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class Recurrence:
    """The attributes of one op."""

    op: str
    hidden: int
    reverse: tuple[bool, ...]
    """For each direction, whether it runs from the last step to the first."""
    activations: tuple[tuple[Activation, ...], ...]
    """For each direction: LSTM f, g, h; GRU f, g; RNN f."""
    clip: float
    """Bound of what the activations of the gates are given; 0 for none."""
    batch_first: bool
    reset_after: bool
    """GRU: the reset gate is applied to the product (linear_before_reset), not to the state in front of it."""
    coupled: bool
    """LSTM: the forget gate is one minus the input gate."""

    @property
    def gates(self) -> int:
        """Gates of the op."""
        return GATES[self.op]

    @property
    def directions(self) -> int:
        """One or two."""
        return len(self.reverse)

    @property
    def columns(self) -> int:
        """Columns of the product of the inputs."""
        return self.directions * self.gates * self.hidden


def recurrence_of(op: BodyOp, hidden: int) -> Recurrence | No:
    """The attributes of ``op``, whose R has ``hidden`` columns, or why there is no kernel for them."""
    stated = op.attr("hidden_size", hidden)
    if stated != hidden:
        return No(f"hidden_size is {stated}, but R has {hidden} columns")
    direction = str(op.attr("direction", "forward"))
    if direction not in _DIRECTIONS:
        return No(f"direction {direction!r}")
    reverse = _DIRECTIONS[direction]
    defaults = _DEFAULTS[op.op]
    named = op.attr("activations")
    names = [str(name) for name in named] if isinstance(named, tuple) and named else [*defaults] * len(reverse)
    if len(names) != len(defaults) * len(reverse):
        return No(f"{len(names)} activations instead of {len(defaults) * len(reverse)}")
    found = _activations(names, _floats(op, "activation_alpha"), _floats(op, "activation_beta"))
    if isinstance(found, No):
        return found
    count = len(defaults)
    return Recurrence(
        op.op,
        hidden,
        reverse,
        tuple(tuple(found[i * count : (i + 1) * count]) for i in range(len(reverse))),
        float(op.attr("clip", 0.0) or 0.0),  # type: ignore[arg-type]
        bool(op.attr("layout", 0)),
        bool(op.attr("linear_before_reset", 0)),
        bool(op.attr("input_forget", 0)),
    )


def operand_shapes(form: Recurrence, x: Sequence[Dim]) -> tuple[tuple[Dim, ...], ...]:
    """What shapes ONNX's operands X to P must have, where X has shape ``x``."""
    batch, features = x[0 if form.batch_first else 1], x[2]
    gates, hidden, directions = form.gates * form.hidden, form.hidden, form.directions
    state = (batch, directions, hidden) if form.batch_first else (directions, batch, hidden)
    weights = (directions, gates, features), (directions, gates, hidden), (directions, 2 * gates)
    return (tuple(x), *weights, (batch,), state, state, (directions, 3 * hidden))


def _floats(op: BodyOp, name: str) -> list[float]:
    value = op.attr(name)
    return [float(v) for v in value] if isinstance(value, tuple) else []


def _activations(names: Sequence[str], alphas: list[float], betas: list[float]) -> list[Activation] | No:
    """Alphas and betas belong, in order, to the functions that have one; those left over have the defaults."""
    by_name = {name.lower(): name for name in PARAMETERS}
    found = []
    for given in names:
        name = by_name.get(given.lower())
        if name is None:
            return No(f"activation {given!r}")
        numbers = list(PARAMETERS[name])
        for position, rest in enumerate((alphas, betas)[: len(numbers)]):
            if rest:
                numbers[position] = rest.pop(0)
        found.append(Activation(name, *numbers))
    return found
