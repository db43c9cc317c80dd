"""Where a build makes a model depart from ONNX Runtime: the first stage, and within it the first Value.

The model as it is after the import and after every pass runs on the host, and then the plan in the simulator.
Kernels are not compiled: what they do is compared on the GPU by ``ingot compare``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx_ir as ir

from ingot.builder.api import build_hollow
from ingot.builder.reading import read_model
from ingot.builder.targets import without_cpu
from ingot.errors import IngotError
from ingot.measure.accuracy import Difference, difference
from ingot.measure.compare import Row
from ingot.measure.reference import Reference
from ingot.measure.stage_values import makers, stage_values
from ingot.measure.tolerance import tolerance_of
from ingot.options import BuildOptions
from ingot.passes import pipeline
from ingot.plan.spec import Plan
from ingot.simulate.faults import PlanFault
from ingot.simulate.simulator import Simulator

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
_EXACT, _HALF = 0.001, 0.03
_IMPORT, _SIMULATOR = "import", "simulator"


class Stage(msgspec.Struct, frozen=True):
    """One stage: how far the outputs behind it are from ONNX Runtime's for the original model."""

    name: str
    changed: bool
    """Whether it changed the graph; only then it was run."""
    worst: Difference | None = None
    """The output that is furthest off; None where nothing was run."""
    tolerance: float = 0.0
    problem: str = ""
    """Why it could not be run; for the simulator, what is wrong with the plan."""

    @property
    def right(self) -> bool:
        """Whether the outputs are within the tolerance, as far as is known."""
        return self.worst is None or self.worst.within(self.tolerance)


class Bisection(msgspec.Struct, frozen=True):
    """The stages up to the first one that departs."""

    stages: list[Stage]
    first: str = ""
    """The stage that departs; empty when none does."""
    value: Row | None = None
    """The first Value that this stage computes otherwise than the stage before, and what makes it."""


def bisect(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    options: BuildOptions,
    make_feeds: Callable[[Plan], Mapping[str, Array]],
    *,
    tolerance: float | None = None,
) -> Bisection:
    """Finds the first stage of a build of ``model`` whose outputs depart from ONNX Runtime's.

    ``make_feeds`` gives the input arrays for the plan. ``tolerance`` is relative; left out, it follows the
    precision of each stage. Raises IngotError for a model, options or inputs that are wrong.
    """
    options = replace(options, target=without_cpu(options.target))
    engine = build_hollow(model, options)
    feeds = make_feeds(engine.plan)
    walk = _Walk(feeds, Reference(model).run(feeds), tolerance)
    imported = read_model(model, options.shapes)
    walk.stage(_IMPORT, imported.model)
    if engine.plan.target == "cpu":
        return Bisection(walk.stages, walk.first, walk.value)
    pipeline.canonicalise(imported.model, fp16=options.fp16, dump=walk.stage, unroll=options.unroll)
    if not walk.first:
        walk.simulate(Simulator(engine), tolerance_of(engine) if tolerance is None else tolerance)
    return Bisection(walk.stages, walk.first, walk.value)


class _Walk:
    """Runs stage after stage until one departs; later ones are passed by."""

    def __init__(self, feeds: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float | None) -> None:
        self.feeds, self.wanted, self.tolerance = feeds, wanted, tolerance
        self.stages: list[Stage] = []
        self.first = ""
        self.value: Row | None = None
        self.content = b""
        """The model after the last stage that changed it."""

    def stage(self, name: str, model: ir.Model) -> None:
        """The model after ``name``."""
        if self.first:
            return
        before, self.content = self.content, _serialised(model)
        if self.content == before:
            self.stages.append(Stage(name, False))
            return
        usual = _HALF if _is_half(model) else _EXACT
        allowed = usual if self.tolerance is None else self.tolerance
        try:
            made = stage_values(self.content, self.feeds)
        except IngotError as error:
            self.stages.append(Stage(name, True, problem=error.reason))
            return
        self._add(Stage(name, True, self._worst(made, allowed), allowed))
        if self.first and before:
            self.value = self._first_value(before, allowed)

    def simulate(self, simulator: Simulator, allowed: float) -> None:
        """The lowered plan."""
        plan = simulator.engine.plan
        seen: dict[str, Array] = {}

        def keep(index: int, array: Array) -> None:
            seen[plan.values[index].name] = array

        try:
            made = simulator.run(self.feeds, observe=keep)
        except PlanFault as fault:
            self.stages.append(Stage(_SIMULATOR, True, problem=str(fault)))
            self.first = _SIMULATOR
            return
        self._add(Stage(_SIMULATOR, True, self._worst(made, allowed), allowed))
        if self.first:
            layers = {plan.values[i].name: region.name for region in plan.regions for i in region.writes}
            known = makers(self.content)
            names = [name for name in known if name in seen]
            rows = self._rows(stage_values(self.content, self.feeds, names), seen, layers)
            self.value = next((row for row in rows if not row.difference.within(allowed)), None)

    def _add(self, stage: Stage) -> None:
        self.stages.append(stage)
        if not stage.right:
            self.first = stage.name

    def _worst(self, made: Mapping[str, Array], allowed: float) -> Difference:
        found = [difference(name, wanted, made[name]) for name, wanted in self.wanted.items()]
        return max(found, key=lambda d: (not d.within(allowed), d.relative))

    def _first_value(self, before: bytes, allowed: float) -> Row | None:
        """The first Value that both models have and compute differently; None where they cannot be compared."""
        known, makes = makers(before), makers(self.content)
        names = [name for name in makes if name in known]
        try:
            pair = [stage_values(content, self.feeds, names) for content in (before, self.content)]
        except IngotError:
            return None
        rows = self._rows(pair[0], pair[1], makes)
        return next((row for row in rows if not row.difference.within(allowed)), None)

    @staticmethod
    def _rows(wanted: Mapping[str, Array], made: Mapping[str, Array], makes: Mapping[str, str]) -> Sequence[Row]:
        return [Row(makes.get(name, ""), difference(name, wanted[name], made[name])) for name in wanted]


def _serialised(model: ir.Model) -> bytes:
    try:
        return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    except ValueError:
        fix = "cut it with ingot surgeon and bisect a part"
        raise IngotError("the model is too large to be run after every stage (2 GiB)", fix=fix) from None


def _is_half(model: ir.Model) -> bool:
    narrow = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return any(value.dtype in narrow for node in model.graph for value in node.outputs)
