"""Running an engine with several optimization profiles: each run by the plan that its shapes fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import IngotError
from ingot.runtime import shapes as dims
from ingot.runtime.choose import fitting
from ingot.runtime.context import Context, Shapes
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.feeds import check_names, require_all
from ingot.runtime.lane import Lane

if TYPE_CHECKING:
    from ingot.runtime.engine import Engine

_REMEMBERED = 256
"""Shapes whose profile is remembered."""


class ProfiledContext(Context):
    """A Context for each profile that was needed, all on one arena and one stream."""

    def __init__(self, engine: Engine, ordinal: int = 0) -> None:
        super().__init__(engine)
        engine.open_device(ordinal)
        plans = engine.file.plans
        self._ordinal = ordinal
        self._names = [b.name for b in engine.plan.inputs]
        self._lane = Lane(max(p.arena_bytes for p in plans), max(p.persistent_bytes for p in plans))
        self._contexts: dict[str, DeviceContext] = {}
        self._known: dict[tuple[tuple[int, ...], ...], DeviceContext] = {}
        self._bound: DeviceContext | None = None

    @property
    def profile(self) -> str:
        """Name of the profile that is bound; the first before anything is."""
        return self._bound.engine.plan.name if self._bound is not None else self.engine.plan.name

    def at(self, shapes: Shapes) -> DeviceContext:
        """The Context that runs inputs of ``shapes``. Raises IngotError where no profile takes them."""
        key = tuple(shapes[name] for name in self._names)
        found = self._known.get(key)
        if found is None:
            name = fitting(self.engine.file.plans, shapes).name
            found = self._contexts.get(name)
            if found is None:
                found = DeviceContext(self.engine.variants[name], self._ordinal, self._lane)
                self._contexts[name] = found
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    def run(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See :meth:`Context.run`."""
        check_names(feeds, self.engine.plan.inputs, "input")
        require_all(feeds, self.engine.plan.inputs)
        return self.at({name: _shape(feeds[name]) for name in self._names}).run(feeds, outputs)

    def bind(
        self,
        shapes: Shapes | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """See :meth:`Context.bind`; an input without a shape has the first profile's optimum one."""
        plan = self.engine.plan
        check_names({**(inputs or {}), **(shapes or {})}, plan.inputs, "input")
        given = dict(shapes or {})
        given |= {name: _shape(array) for name, array in (inputs or {}).items()}
        whole = dims.or_best(plan, given)
        context = self.at(whole)
        context.bind(whole, inputs, outputs)
        self._bound = context

    def enqueue(self, stream: Any = None) -> None:
        """See :meth:`Context.enqueue`."""
        self._need().enqueue(stream)

    def synchronize(self, *, spin: bool = False) -> None:
        """See :meth:`Context.synchronize`."""
        self._need().synchronize(spin=spin)

    def input(self, name: str) -> Any:
        """See :meth:`Context.input`."""
        return self._need().input(name)

    def output(self, name: str) -> Any:
        """See :meth:`Context.output`."""
        return self._need().output(name)

    def _need(self) -> DeviceContext:
        if self._bound is None:
            self.bind()
        assert self._bound is not None
        return self._bound


def _shape(feed: Any) -> tuple[int, ...]:
    """The shape of what a caller passes in; sequences and optionals have none. Raises IngotError for ragged lists."""
    shape = getattr(feed, "shape", None)
    if feed is None or (isinstance(feed, list | tuple) and any(hasattr(item, "shape") for item in feed)):
        return ()
    if shape is None:
        try:
            shape = np.shape(feed)
        except ValueError as error:
            raise IngotError(f"cannot read an input as an array: {error}") from None
    return tuple(int(size) for size in shape)
