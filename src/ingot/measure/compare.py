"""An engine against the original model, Value by Value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from ingot.device.driver import available
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.measure.accuracy import Difference, difference
from ingot.measure.reference import Reference

Array = np.ndarray[Any, Any]


class Row(msgspec.Struct, frozen=True):
    """One Value that both sides have, and the layer that makes it."""

    layer: str
    difference: Difference


class Comparison(msgspec.Struct, frozen=True):
    """Values in the order in which the engine makes them."""

    where: str
    """What ran the engine: ``GPU``, ``CPU`` or ``simulator``."""
    rows: list[Row]
    tolerance: float
    unnamed: int
    """Values of the engine that the original model does not have under that name."""

    @property
    def first(self) -> Row | None:
        """The first Value that departs from the reference by more than the tolerance."""
        return next((row for row in self.rows if not row.difference.within(self.tolerance)), None)


def compare(
    engine: EngineFile,
    reference: Reference,
    feeds: Mapping[str, Array],
    *,
    inner: bool = False,
    simulate: bool = False,
    tolerance: float,
) -> Comparison:
    """The outputs, or with ``inner`` every Value that the original model has too.

    A GPU engine runs on the GPU if there is one and ``simulate`` is off, else in the simulator. Raises IngotError
    when either side refuses the inputs.
    """
    where, made = _values(engine, feeds, simulate)
    plan = engine.plan
    outputs = {b.value: b.name for b in plan.outputs}
    names = [outputs.get(i, plan.values[i].name) for i, _ in made] if inner else list(outputs.values())
    wanted = reference.values(feeds, names) if inner else reference.run(feeds, names)
    makers = {i: region.name for region in plan.regions for i in region.writes}
    rows, seen, unnamed = [], set[str](), 0
    for index, array in made:
        name = outputs.get(index, plan.values[index].name)
        if name in wanted and name not in seen:
            seen.add(name)
            rows.append(Row(makers.get(index, ""), difference(name, wanted[name], array)))
        elif inner and name not in wanted:
            unnamed += 1
    missing = sorted(set(outputs.values()) - seen)
    if missing:
        raise IngotError(
            f"no step makes the output {', '.join(missing)} of the original model", fix="compare with its own model"
        )
    return Comparison(where, rows, tolerance, unnamed)


def _values(engine: EngineFile, feeds: Mapping[str, Array], simulate: bool) -> tuple[str, list[tuple[int, Array]]]:
    """What ran, and the Values in the order in which they were made, views of them that are outputs last."""
    plan = engine.plan
    found: list[tuple[int, Array]] = []
    if plan.target != "cpu" and (simulate or not available()):
        from ingot.simulate.simulator import Simulator

        made = Simulator(engine).run(feeds, observe=lambda index, array: found.append((index, array)))
        where = "simulator"
    else:
        from ingot.runtime.engine import Engine
        from ingot.runtime.values import step_values

        context = Engine(engine).context()
        found.extend(step_values(context, feeds))
        made = context.run(feeds)
        where = "CPU" if plan.target == "cpu" else "GPU"
    # An output may be a view of what a step has made, or of an input.
    there = {index for index, _ in found}
    found.extend((b.value, np.asarray(made[b.name])) for b in plan.outputs if b.value not in there)
    return where, found
