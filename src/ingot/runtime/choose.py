"""Which optimization profile takes given input shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.engine.bounds import corner
from ingot.errors import IngotError
from ingot.graph.dims import Dim, evaluate_shape
from ingot.plan.spec import Binding, Plan
from ingot.runtime import shapes as dims
from ingot.runtime.shapes import Shapes


def fitting(plans: Sequence[Plan], shapes: Shapes) -> Plan:
    """The smallest plan that takes inputs of ``shapes`` (all of them given); the first of equals.

    Size is the number of input elements at a plan's largest shapes. Raises IngotError, with the ranges there are, where
    none takes them.
    """
    if len(plans) == 1:
        return plans[0]
    taken: list[Plan] = []
    why: dict[str, str] = {}
    for plan in plans:
        try:
            dims.solve(plan, shapes)
        except IngotError as error:
            why[plan.name] = error.reason
        else:
            taken.append(plan)
    if taken:
        return min(taken, key=largest)
    given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    ranges = "; ".join(f"{plan.name}: {ranges_of(plan)} ({why[plan.name]})" for plan in plans)
    raise IngotError(
        f"no profile takes {given}", node="inputs", fix=f"pass shapes of one, or rebuild with another: {ranges}"
    )


def named(plans: Sequence[Plan], name: str) -> Plan:
    """The plan of the profile called ``name``. Raises IngotError where there is none."""
    for plan in plans:
        if plan.name == name:
            return plan
    known = ", ".join(plan.name for plan in plans if plan.name)
    fix = f"its profiles are: {known}" if known else "it has one profile, without a name: leave it out"
    raise IngotError(f"the engine has no profile {name!r}", fix=fix)


def largest(plan: Plan) -> int:
    """Elements of all inputs at the plan's largest shapes."""
    most = corner(plan, "max")
    return sum(math.prod(evaluate_shape(tuple(b.shape), most)) for b in plan.inputs)


def ranges_of(plan: Plan) -> str:
    """The shapes that a plan takes, as they are written for a build: ``x=1x3x64x64:2x3x64x64:4x3x64x64``."""
    return ", ".join(f"{b.name}={_range(plan, b)}" for b in plan.inputs)


def _range(plan: Plan, binding: Binding) -> str:
    ends = ["x".join(map(str, dims.shape_at(binding, corner(plan, end)))) for end in ("min", "opt", "max")]
    return ends[0] if len(set(ends)) == 1 else ":".join(ends)


def common_shape(bindings: Sequence[Binding]) -> tuple[Dim, ...]:
    """The shape of one input or output over all plans: where they differ, a symbol's name or ``?``."""
    rows = zip(*(b.shape for b in bindings), strict=True)
    return tuple(_common(dims_here) for dims_here in rows)


def _common(here: tuple[Dim, ...]) -> Dim:
    if len(set(here)) == 1:
        return here[0]
    texts = {dim for dim in here if isinstance(dim, str)}
    return texts.pop() if len(texts) == 1 else "?"
