"""Several engines of one model, each for a range of shapes, as one file with common segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from ingot.engine.file import EngineFile
from ingot.engine.format import ALIGN, Provenance
from ingot.graph.dims import add
from ingot.plan.blobs import Blobs
from ingot.plan.spec import Cubin, ModelDecl, Plan, ValueDecl


def join(engines: Sequence[tuple[str, EngineFile]], provenance: Provenance) -> EngineFile:
    """One engine with the plan of each of ``engines``, in order, called by the name beside it.

    They have the same inputs, outputs and target. Weights, machine code and models that occur in several are
    stored once; all plans have the same tables of machine code and models.
    """
    weights, cubins, models = Blobs(ALIGN), Blobs(ALIGN), Blobs(ALIGN)
    cubin_rows: list[Cubin] = []
    model_rows: list[ModelDecl] = []
    plans = []
    for name, engine in engines:
        plan = engine.plan
        codes = [Cubin(cubins.add(engine.cubin(i)), row.size) for i, row in enumerate(plan.cubins)]
        bodies = [msgspec.structs.replace(row, offset=models.add(engine.model(i))) for i, row in enumerate(plan.models)]
        code_at, body_at = [_place(row, cubin_rows) for row in codes], [_place(row, model_rows) for row in bodies]
        steps = [
            msgspec.structs.replace(
                step,
                cubin=code_at[step.cubin] if step.cubin >= 0 else -1,
                model=body_at[step.model] if step.model >= 0 else -1,
            )
            for step in plan.steps
        ]
        regions = [msgspec.structs.replace(r, body=body_at[r.body] if r.body >= 0 else -1) for r in plan.regions]
        values = _moved(plan, memoryview(engine.weights), weights)
        plans.append(msgspec.structs.replace(plan, name=name, values=values, steps=steps, regions=regions))
    weights.pad()  # the last constant's last vector load ends inside the segment
    plans = [
        msgspec.structs.replace(plan, cubins=cubin_rows, models=model_rows, weights_bytes=len(weights.data))
        for plan in plans
    ]
    return EngineFile(
        plans[0], bytes(weights.data), bytes(cubins.data), bytes(models.data), provenance, others=tuple(plans[1:])
    )


_Row = TypeVar("_Row", Cubin, ModelDecl)


def _place(row: _Row, rows: list[_Row]) -> int:
    """Index of ``row`` in ``rows``, which gains it."""
    if row not in rows:
        rows.append(row)
    return rows.index(row)


def _moved(plan: Plan, segment: memoryview, to: Blobs) -> list[ValueDecl]:
    """The values of ``plan``, those in its weights where ``to`` has them."""
    shifts: dict[int, int] = {}
    for start, end, members in _pieces(plan, len(segment)):
        shift = to.add(segment[start:end]) - start
        shifts |= dict.fromkeys(members, shift)
    return [
        value
        if index not in shifts
        else msgspec.structs.replace(
            value, memory=msgspec.structs.replace(value.memory, offset=add(value.memory.offset, shifts[index]))
        )
        for index, value in enumerate(plan.values)
    ]


def _pieces(plan: Plan, size: int) -> list[tuple[int, int, list[int]]]:
    """Runs of bytes of the weights that some value needs together, with those values' indices.

    Where a place depends on the shape, nothing is known of it but that it is inside: then all of it is one piece.
    """
    rows: list[tuple[int, int, int]] = []
    for index, value in enumerate(plan.values):
        memory = value.memory
        if memory.space == "weights":
            if not isinstance(memory.offset, int) or not isinstance(memory.bytes, int):
                everything = [i for i, v in enumerate(plan.values) if v.memory.space == "weights"]
                return [(0, size, everything)]
            rows.append((memory.offset, memory.offset + memory.bytes, index))
    pieces: list[tuple[int, int, list[int]]] = []
    for start, end, index in sorted(rows):
        if pieces and start < pieces[-1][1]:
            first, last, members = pieces[-1]
            pieces[-1] = (first, max(last, end), [*members, index])
        else:
            pieces.append((start, end, [index]))
    return pieces
