"""From the shapes of the inputs to the values of the symbolic dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingot.engine.bounds import corner
from ingot.errors import IngotError
from ingot.graph.dims import evaluate, evaluate_shape, symbols
from ingot.graph.dtypes import nested
from ingot.plan.spec import Binding, Dim, Plan

Shapes = Mapping[str, tuple[int, ...]]


def solve(plan: Plan, shapes: Shapes) -> dict[str, int]:
    """Values of every symbolic dimension, from the actual shape of every input.

    A dimension that is a plain symbol gives the symbol its value; expressions are then checked. Sequences and
    optionals have no shape.
    Raises IngotError naming the input for a wrong rank or size, or a size outside the profile.
    """
    found: dict[str, int] = {}
    tensors = [binding for binding in plan.inputs if nested(binding.dtype) is None]
    for binding in tensors:
        _gather(binding, shapes[binding.name], found)
    for profile in plan.profiles:
        value = found.get(profile.symbol)
        if value is None:
            raise IngotError(
                f"no input's shape gives dimension {profile.symbol!r}",
                fix="rebuild the model with that dimension as a plain one of an input",
            )
        if not profile.min <= value <= profile.max:
            raise IngotError(
                f"dimension {profile.symbol!r} is {value}; the engine was built for {profile.min} to {profile.max}",
                node=_user_of(plan.inputs, profile.symbol),
                fix="rebuild with a wider --shapes range, or pass a shape inside it",
            )
    for binding in tensors:
        _verify(binding, shapes[binding.name], found)
    return found


def _gather(binding: Binding, shape: tuple[int, ...], found: dict[str, int]) -> None:
    if len(shape) != len(binding.shape):
        raise _mismatch(binding, shape, f"it has {len(shape)} dimensions")
    for want, size in zip(binding.shape, shape, strict=True):
        if not _is_symbol(want):
            continue
        name = str(want).strip()
        if found.setdefault(name, size) != size:
            raise _mismatch(binding, shape, f"dimension {name!r} is {found[name]} in another place")


def _verify(binding: Binding, shape: tuple[int, ...], found: Mapping[str, int]) -> None:
    for want, size in zip(binding.shape, shape, strict=True):
        value = evaluate(want, found)
        if value != size:
            raise _mismatch(binding, shape, f"{want} must be {value}" if isinstance(want, str) else "")


def _is_symbol(dim: Dim) -> bool:
    return isinstance(dim, str) and dim.strip().isidentifier()


def _mismatch(binding: Binding, shape: Sequence[int], why: str) -> IngotError:
    reason = f"shape {list(shape)} does not fit {[*binding.shape]}" + (f": {why}" if why else "")
    return IngotError(reason, node=f"input {binding.name!r}", fix="pass that shape, or rebuild with --shapes")


def _user_of(bindings: Sequence[Binding], symbol: str) -> str:
    for binding in bindings:
        if any(symbol in symbols(dim) for dim in binding.shape):
            return f"input {binding.name!r} {[*binding.shape]}"
    return ""


def or_best(plan: Plan, given: Shapes) -> dict[str, tuple[int, ...]]:
    """The shape of every input: as given, else the profile's optimum one."""
    best = corner(plan, "opt")
    return {b.name: tuple(given.get(b.name) or shape_at(b, best)) for b in plan.inputs}


def shape_at(binding: Binding, bindings: Mapping[str, int]) -> tuple[int, ...]:
    """A binding's shape as numbers."""
    return evaluate_shape(tuple(binding.shape), bindings)
