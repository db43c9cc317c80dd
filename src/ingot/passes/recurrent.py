"""LSTM, GRU and RNN in two parts: one product of the inputs of all steps, and what runs from step to step.

The product ``X W^T`` is an ordinary MatMul. The rest is the op of :mod:`ingot.graph.recurrent`, of kind RECURRENT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.recurrent import (
    BATCH_FIRST,
    C0,
    DOMAIN,
    H0,
    LENGTHS,
    SWAPPED,
    R,
    Recurrence,
    W,
    X,
    operand_shapes,
    recurrence_of,
)
from ingot.graph.region import BodyOp, Kind, Literal
from ingot.graph.tensor import TensorSpec, spec
from ingot.passes.flatten import FlatGraph, FlatOp, without_dead_ops


def split_recurrences(flat: FlatGraph, plain: frozenset[str]) -> FlatGraph:
    """``flat`` with its recurrent ops split; those named in ``plain``, whose parts no kernel took, go to the host."""
    if all(op.kind is not Kind.RECURRENT for op in flat.ops):
        return flat
    splitter = _Splitter(flat)
    ops: list[FlatOp] = []
    for op in flat.ops:
        if op.kind is not Kind.RECURRENT:
            ops.append(op)
        elif op.name in plain:
            reason = flat.notes.get(op.name, "no kernel takes the parts that it was split into")
            ops.append(_on_host(op, No(reason)))
        else:
            ops += splitter.split(op)
    return without_dead_ops(
        replace(flat, ops=tuple(ops), values=splitter.values, constants=splitter.constants, literals=splitter.literals)
    )


def swapped_behind(flat: FlatGraph, name: str, readers: Mapping[str, Sequence[tuple[object, BodyOp]]]) -> bool:
    """Whether all that is done with a layer's results of one direction is to squeeze them and put the batch first."""
    first, value = [op for _, op in readers.get(name, ())], flat.values[name]
    if value.rank != len(BATCH_FIRST) or value.shape[1] != 1 or [op.op for op in first] != ["Squeeze"]:
        return False
    squeezed = first[0].outputs[0]
    behind = [op for _, op in readers.get(squeezed, ())]
    turned = all(op.op == "Transpose" and op.ints("perm", ()) == SWAPPED for op in behind)
    return bool(behind) and turned and squeezed not in flat.outputs


def _fits(shape: Sequence[Dim], wanted: Sequence[Dim]) -> bool:
    """Whether ``shape`` may be ``wanted``: sizes that are not numbers may be any."""
    if len(shape) != len(wanted):
        return False
    pairs = zip(shape, wanted, strict=True)
    return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs)


def _on_host(op: FlatOp, reason: No) -> FlatOp:
    return replace(op, kind=Kind.HOST, reason=replace(reason, node=op.name))


@dataclass
class _Splitter:
    flat: FlatGraph
    values: dict[str, TensorSpec] = field(init=False)
    constants: dict[str, np.ndarray[Any, Any]] = field(init=False)
    literals: dict[str, Literal] = field(init=False)
    makers: dict[str, FlatOp] = field(init=False)

    def __post_init__(self) -> None:
        self.values, self.constants = dict(self.flat.values), dict(self.flat.constants)
        self.literals = dict(self.flat.literals)
        self.makers = {name: op for op in self.flat.ops for name in op.body.outputs}

    def split(self, op: FlatOp) -> list[FlatOp]:
        """The parts; the op itself, on the host and with the reason, where it has none."""
        body = op.body
        x, weight, state = (self.values[body.inputs[i]] for i in (X, W, R))
        hidden = state.shape[-1]
        if not isinstance(hidden, int) or not all(isinstance(d, int) for d in weight.shape):
            return [_on_host(op, No("the sizes of W and R are not known"))]
        form = recurrence_of(body, hidden)
        if isinstance(form, No):
            return [_on_host(op, form)]
        if x.rank != 3:
            return [_on_host(op, No(f"X has shape {x.shape}"))]
        for name, wanted in zip(body.inputs[1:], operand_shapes(form, x.shape)[1:], strict=False):
            if name and not _fits(self.values[name].shape, wanted):
                return [_on_host(op, No(f"{name} has shape {self.values[name].shape}, not {wanted}"))]
        made, parts = self._product(op, form)
        outputs = body.outputs
        if not outputs[0]:  # results have a shape by the first
            outputs = (f"{op.name}/Y", *outputs[1:])
            steps = (x.shape[0], form.directions, x.shape[1], hidden)
            whole = (x.shape[0], x.shape[1], form.directions, hidden)
            self.values[outputs[0]] = spec(x.dtype, whole if form.batch_first else steps)
        rest = BodyOp(body.op, self._operands(body, made), outputs, body.attrs, DOMAIN)
        return [*parts, FlatOp(op.name, rest, Kind.RECURRENT, origin=op.name)]

    def _operands(self, body: BodyOp, made: str) -> tuple[str, ...]:
        """``made`` instead of X and W; states that start as zeros are left out, as are lengths of all steps."""
        given = [made, "", *body.inputs[2:]]
        for position in (H0, C0):
            if position < len(given) and given[position] and self._is_zero(given[position]):
                given[position] = ""
        if len(given) > LENGTHS and given[LENGTHS]:
            lengths, steps = self.constants.get(given[LENGTHS]), self.values[body.inputs[X]].shape
            whole = steps[1 if body.attr("layout", 0) else 0]
            if lengths is not None and isinstance(whole, int) and bool(np.all(lengths == whole)):
                given[LENGTHS] = ""
        while not given[-1]:
            given.pop()
        return tuple(given)

    def _is_zero(self, name: str) -> bool:
        """Whether a value is all zeros: a constant, or a view of what ConstantOfShape makes."""
        known = self.constants.get(name)
        if known is not None:
            return not known.any()
        op = self.makers.get(name)
        while op is not None and op.kind is Kind.VIEW:
            op = self.makers.get(op.body.inputs[0])
        return op is not None and op.body.op == "ConstantOfShape" and not op.body.attr("value", 0)

    def _product(self, op: FlatOp, form: Recurrence) -> tuple[str, list[FlatOp]]:
        """Name of ``X W^T``, and the ops that make it."""
        source, swapped = op.body.inputs[X], False
        match self.makers.get(source):
            case FlatOp(body=turn, kind=Kind.VIEW) if turn.op == "Transpose" and turn.ints("perm", ()) == SWAPPED:
                source, swapped = turn.inputs[0], True  # rows that lie behind each other are one large product
        weight, parts = self._weight(op, form)
        x = self.values[source]
        made = f"{op.name}/projected"
        product = f"{made}/swapped" if swapped else made
        self.values[product] = spec(x.dtype, (x.shape[0], x.shape[1], form.columns))
        parts.append(self._op(op, "product", BodyOp("MatMul", (source, weight), (product,)), Kind.GEMM))
        if swapped:
            self.values[made] = spec(x.dtype, (x.shape[1], x.shape[0], form.columns))
            turn = BodyOp("Transpose", (product,), (made,), (("perm", SWAPPED),))
            parts.append(self._op(op, "swap", turn, Kind.VIEW))
        return made, parts

    def _weight(self, op: FlatOp, form: Recurrence) -> tuple[str, list[FlatOp]]:
        """Name of W as a matrix of a row for each element of the input, and the ops that make it of a computed W."""
        name = op.body.inputs[W]
        weight = self.values[name]
        columns, depth = form.columns, weight.shape[-1]
        turned = f"{op.name}/W"
        known = self.constants.get(name)
        self.values[turned] = spec(weight.dtype, (depth, columns), constant=known is not None)
        if known is not None:
            self.constants[turned] = np.ascontiguousarray(known.reshape(columns, -1).T)
            return turned, []
        flat, shape = f"{op.name}/W/flat", f"{op.name}/W/shape"
        self.values[flat] = spec(weight.dtype, (columns, depth))
        self.literals[shape] = (columns, depth)
        return turned, [
            self._op(op, "flat", BodyOp("Reshape", (name, shape), (flat,)), Kind.VIEW),
            self._op(op, "turn", BodyOp("Transpose", (flat,), (turned,), (("perm", (1, 0)),)), Kind.VIEW),
        ]

    def _op(self, op: FlatOp, part: str, body: BodyOp, kind: Kind) -> FlatOp:
        return FlatOp(f"{op.name}/{part}", body, kind, origin=op.name)
