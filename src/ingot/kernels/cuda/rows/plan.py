"""What a reduction kernel must compute, stage by stage, before any choice of threads is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import No
from ingot.graph.dims import Dim, floordiv, mul
from ingot.graph.region import BodyOp, Region
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.rows.axes import Loop, Placement, aligned_strides, collapse, typical
from ingot.kernels.cuda.rows.expand import REDUCTIONS, Primitives, expand
from ingot.kernels.cuda.rows.text import refusal


@dataclass(frozen=True)
class RowPlan:
    """A Region as stages. A *row* is one point of the kept axes, a *column* one of the reduced axes.

    Values are *full* (one per row and column) or *row* values (one per row). Stage k reads what
    reductions of the stages before it made; its own reductions are finished at its end.
    """

    region: Region
    ops: tuple[BodyOp, ...]
    prims: Primitives
    kept: tuple[Loop, ...]
    reduced: tuple[Loop, ...]
    placed: dict[str, Placement]
    """Every tensor that is read or written (inputs, their aliases, outputs)."""
    full: frozenset[str]
    level: dict[str, int]
    stages: int
    columns_inner: bool
    """Whether the innermost axis in memory is a reduced one."""

    @property
    def rows(self) -> Dim:
        """Number of rows."""
        return mul(*(loop.size for loop in self.kept))

    @property
    def columns(self) -> Dim:
        """Number of columns."""
        return mul(*(loop.size for loop in self.reduced))

    @property
    def lanes(self) -> Loop | None:
        """The innermost loop in memory, along which vectors lie."""
        loops = self.reduced if self.columns_inner else self.kept
        return loops[-1] if loops else None

    @property
    def full_inputs(self) -> tuple[str, ...]:
        """Tensors that are read for every column."""
        return tuple(n for n in self.placed if n in self.full and n not in self.region.outputs)

    def is_reduction(self, op: BodyOp) -> bool:
        """Whether a primitive op reduces."""
        return op.op in REDUCTIONS

    def reads(self, op: BodyOp) -> tuple[str, ...]:
        """Values (not literals) that an op reads."""
        names = op.inputs[:1] if self.is_reduction(op) else op.inputs
        return tuple(dict.fromkeys(n for n in names if n and n not in self.prims.literals))

    def source(self, name: str) -> str:
        """The Region input behind a tensor name."""
        return self.prims.aliases[name][0] if name in self.prims.aliases else name

    @property
    def has_full_output(self) -> bool:
        """Whether something is stored for every column."""
        return any(name in self.full for name in self.region.outputs)


@lru_cache(maxsize=512)
def plan_rows(region: Region) -> RowPlan | No:
    """Stages of ``region``, or why it is not a reduction that can be generated."""
    prims = expand(region)
    if isinstance(prims, No):
        return prims
    for op in prims.ops:
        if op.op not in REDUCTIONS and (not is_scalar_op(op.op) or len(op.outputs) != 1):
            return No(f"{op.op} is neither a scalar op nor a reduction")
    unwritten = refusal([op for op in prims.ops if op.op not in REDUCTIONS], prims.dtypes, prims.literals)
    return unwritten if unwritten is not None else _Analysis(region, prims).run()


class _Analysis:
    def __init__(self, region: Region, prims: Primitives) -> None:
        self.region, self.prims = region, prims
        self.space = _refine(prims.space, prims)
        self.kept_axes = tuple(a for a in range(len(self.space)) if a not in prims.reduced)
        self.made = {op.outputs[0]: op for op in prims.ops}

    def run(self) -> RowPlan | No:
        ops = self._alive()
        after = self._after_reduction(ops)
        dropped = self._dropped_space(ops, after) if not self.prims.keepdims else set()
        placed = self._place(ops, dropped)
        if isinstance(placed, No):
            return placed
        full = self._full(ops, placed, after)
        level, stages = self._levels(ops)
        reason = self._check(ops, full, placed)
        if reason is not None:
            return reason
        lead = self._lead(placed)
        kept = collapse(self.kept_axes, self.space, placed, lead)
        reduced = collapse(self.prims.reduced, self.space, placed, lead)
        inner = self._inner_is_reduced(kept, reduced, lead)
        return RowPlan(self.region, ops, self.prims, kept, reduced, placed, frozenset(full), level, stages, inner)

    def _inputs(self, op: BodyOp) -> list[str]:
        names = op.inputs[:1] if op.op in REDUCTIONS else op.inputs
        return [n for n in names if n and n not in self.prims.literals]

    def _alive(self) -> tuple[BodyOp, ...]:
        """Ops that an output depends on (optional outputs may be unused)."""
        live, kept = set(self.region.outputs), []
        for op in reversed(self.prims.ops):
            if op.outputs[0] in live:
                kept.append(op)
                live.update(self._inputs(op))
        return tuple(reversed(kept))

    def _after_reduction(self, ops: Iterable[BodyOp]) -> set[str]:
        after: set[str] = set()
        for op in ops:
            if op.op in REDUCTIONS or any(n in after for n in self._inputs(op)):
                after.add(op.outputs[0])
        return after

    def _dropped_space(self, ops: tuple[BodyOp, ...], after: set[str]) -> set[str]:
        """Values over T: what follows the reductions, and what only they meet."""
        before: set[str] = set()
        for op in reversed(ops):
            if op.op in REDUCTIONS or op.outputs[0] in before:
                before.update(self._inputs(op))
        dropped = set(after)
        for op in reversed(ops):
            if op.outputs[0] in dropped and op.op not in REDUCTIONS:
                dropped.update(n for n in self._inputs(op) if n not in before)
        return dropped

    def _place(self, ops: tuple[BodyOp, ...], dropped: set[str]) -> dict[str, Placement] | No:
        placed: dict[str, Placement] = {}
        read = dict.fromkeys(n for op in ops for n in self._inputs(op) if n not in self.made)
        for name in (*read, *self.region.outputs):
            if name in self.prims.aliases:
                source, axes = self.prims.aliases[name]
            else:
                source, axes = name, None
            spec = self.region.spec_of[source]
            strides = self._strides(spec, axes, name in dropped)
            if strides is None:
                return No(f"value {source!r} of shape {spec.shape} does not broadcast to {self.prims.space}")
            placed[name] = Placement(spec, strides)
        return placed

    def _strides(self, spec: TensorSpec, axes: tuple[int, ...] | None, dropped: bool) -> tuple[Dim, ...] | None:
        rank = len(self.prims.space)
        if axes is None:
            own = [a for a in range(rank) if a not in self.prims.reduced] if dropped else list(range(rank))
            if spec.rank > len(own):
                return None
            axes = tuple(own[len(own) - spec.rank :])
        strides = aligned_strides(spec, axes, self.prims.space)
        if strides is None or not self.prims.groups:
            return strides
        channels = self.space[2]
        step = strides[1]
        return (strides[0], 0 if step == 0 else mul(step, channels), step, *strides[2:])

    def _full(self, ops: tuple[BodyOp, ...], placed: dict[str, Placement], after: set[str]) -> set[str]:
        """Values with one element per column."""
        single = all(self.space[a] == 1 for a in self.prims.reduced)
        full = set()
        for name, place in placed.items():
            if name in self.made:
                continue
            if any(place.strides[a] != 0 for a in self.prims.reduced) or (single and self._is_reduced(name, ops)):
                full.add(name)
        for op in ops:
            if op.op not in REDUCTIONS and any(n in full for n in self._inputs(op)):
                full.add(op.outputs[0])
        return full

    def _is_reduced(self, name: str, ops: tuple[BodyOp, ...]) -> bool:
        """Whether a reduction depends on ``name`` (all columns being one)."""
        names = {name}
        for op in ops:
            if any(n in names for n in self._inputs(op)):
                if op.op in REDUCTIONS:
                    return True
                names.add(op.outputs[0])
        return False

    def _levels(self, ops: tuple[BodyOp, ...]) -> tuple[dict[str, int], int]:
        level: dict[str, int] = {}
        for op in ops:
            below = max((level.get(n, 0) for n in self._inputs(op)), default=0)
            level[op.outputs[0]] = below + (1 if op.op in REDUCTIONS else 0)
        return level, max(level.values(), default=0)

    def _check(self, ops: tuple[BodyOp, ...], full: set[str], placed: dict[str, Placement]) -> No | None:
        for op in ops:
            if op.op in REDUCTIONS and op.inputs[0] not in full:
                return No(f"{op.op} reduces a value that is the same along the reduced axes")
        for name in self.region.outputs:
            if name not in self.made:
                return No(f"output {name!r} is computed by no op")
            axes = range(len(self.space)) if name in full else self.kept_axes
            strides = placed[name].strides
            if any(strides[a] == 0 and self.space[a] != 1 for a in axes):
                return No(f"output {name!r} is smaller than the space it is computed over")
        arg_axes = [a for a in self.prims.reduced if self.space[a] != 1]
        if len(arg_axes) > 1 and any(op.op.startswith("Arg") for op in ops):
            return No("arg-reductions over several axes")
        return None

    def _lead(self, placed: dict[str, Placement]) -> str:
        """The tensor whose memory order decides the loops: the largest input, then the largest output."""

        def weight(name: str) -> tuple[int, bool]:
            place = placed[name]
            return typical(place.spec.elements), name not in self.made

        return max(placed, key=weight)

    def _inner_is_reduced(self, kept: tuple[Loop, ...], reduced: tuple[Loop, ...], lead: str) -> bool:
        if not reduced or not kept:
            return bool(reduced)
        row, column = kept[-1].strides[lead], reduced[-1].strides[lead]
        if row == 0 or column == 0:
            return column != 0
        return typical(column) < typical(row)


def _refine(space: tuple[Dim, ...], prims: Primitives) -> tuple[Dim, ...]:
    """The space with axis 1 split into groups and channels of a group, if it is."""
    if not prims.groups:
        return space
    return (space[0], prims.groups, floordiv(space[1], prims.groups), *space[2:])
