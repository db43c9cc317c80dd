"""Inputs to run an engine with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.graph.dtypes import nested
from ingot.graph.random_values import random_value
from ingot.options import Shapes
from ingot.plan.spec import Plan
from ingot.runtime import shapes as dims
from ingot.runtime.choose import fitting, largest
from ingot.runtime.feeds import fits, shape_of

Array = np.ndarray[Any, Any]
Declared = Mapping[str, tuple[str, tuple[int, ...]]]
"""Per input: element type and concrete shape."""
Maker = Callable[[Declared, int], dict[str, Array]]
"""Arrays for declared inputs and a seed."""


def declared(plan: Plan, shapes: Shapes = ()) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The inputs of an engine at the optimum of ``shapes``, or at the profile's where none is given.

    Raises IngotError for an unknown input or a shape that the engine does not take.
    """
    given = {name: tuple(r.opt for r in ranges) for name, ranges in shapes}
    unknown = sorted(given.keys() - {b.name for b in plan.inputs})
    if unknown:
        raise IngotError(
            f"the engine has no input called {', '.join(unknown)}",
            fix=f"its inputs are {', '.join(b.name for b in plan.inputs)}",
        )
    whole = dims.or_best(plan, given)
    dims.solve(plan, whole)
    return {b.name: (b.dtype, whole[b.name]) for b in plan.inputs}


def plan_for(plans: Sequence[Plan], shapes: Shapes = ()) -> Plan:
    """The plan that a tool looks at: the smallest that takes ``shapes``, the first where none are given.

    Raises IngotError as :func:`declared` where no plan takes them.
    """
    taken = [plan for plan in plans if _takes(plan, shapes)] if shapes else list(plans[:1])
    if taken:
        return min(taken, key=largest)
    declared(plans[0], shapes)  # raises the reason
    return plans[0]


def _takes(plan: Plan, shapes: Shapes) -> bool:
    try:
        declared(plan, shapes)
    except IngotError:
        return False
    return True


def plan_of(plans: Sequence[Plan], feeds: Mapping[str, Any]) -> Plan:
    """The plan that runs ``feeds``. Raises IngotError where none takes their shapes."""
    if len(plans) == 1 or feeds.keys() != {b.name for b in plans[0].inputs}:
        return plans[0]
    return fitting(plans, {name: shape_of(value) for name, value in feeds.items()})


def random_feeds(inputs: Declared, seed: int = 0) -> dict[str, Any]:
    """Normal numbers for floats; 0 or 1 for integers, which is safe where they are indices; coins for booleans.

    Raises IngotError for sequences and optionals.
    """
    generator = np.random.default_rng(seed)
    return {name: random_value(dtype, shape, generator) for name, (dtype, shape) in inputs.items()}


def check_feeds(plan: Plan, feeds: Mapping[str, Any]) -> None:
    """Raises IngotError unless ``feeds`` are what the engine takes: names, types and shapes."""
    known = {b.name: b for b in plan.inputs}
    for name in sorted(known.keys() ^ feeds.keys()):
        reason = "this input is missing" if name in known else "the engine has no such input"
        raise IngotError(reason, node=name, fix=f"give exactly {', '.join(known)}")
    for name, value in feeds.items():
        if nested(known[name].dtype) is None and not fits(value, known[name].dtype):
            reason = f"it has type {value.dtype}, the engine wants {known[name].dtype}"
            raise IngotError(reason, node=name, fix="convert it first")
    dims.solve(plan, {name: shape_of(value) for name, value in feeds.items()})
