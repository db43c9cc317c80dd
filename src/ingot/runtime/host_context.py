"""Running an engine that needs no GPU: nothing here touches CUDA."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.engine.bounds import corner
from ingot.errors import IngotError
from ingot.graph.dtypes import nested, numpy_dtype
from ingot.plan.spec import Binding
from ingot.runtime import shapes as dims
from ingot.runtime.context import Context, Shapes
from ingot.runtime.feeds import Array, check_names, dtype_error, host_value, on_device, require_all, shape_of
from ingot.runtime.island import call, host_constants
from ingot.runtime.places import Places

if TYPE_CHECKING:
    from ingot.runtime.engine import Engine


class HostContext(Context):
    """Host steps in order, arrays passed straight from one to the next."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        plan = engine.plan
        order = [i for stage in engine.schedule for i in stage.steps]
        self._steps = [(plan.steps[i].name, engine.models[i], plan.steps[i].reads, plan.steps[i].writes) for i in order]
        self._inputs = [(b, numpy_dtype(b.dtype), b.value) for b in plan.inputs]
        self._outputs = [(b, b.value) for b in plan.outputs]
        self._names = frozenset(b.name for b in plan.inputs)
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._given: dict[str, Array] = {}
        self._bound: list[Array] = []
        self._made: dict[str, Array] = {}
        self._constants = self._read_weights()
        whole = [b.value for b in plan.inputs], [b.value for b in plan.outputs]
        # The usual engine for the CPU is the whole model as one step: nothing stands between it and the caller.
        self._one = len(self._steps) == 1 and (list(self._steps[0][2]), list(self._steps[0][3])) == whole
        self._results = [b.name for b in plan.outputs]

    def _read_weights(self) -> dict[int, Array]:
        plan = self.engine.plan
        if all(plan.values[i].memory.space != "weights" for step in plan.steps for i in step.reads):
            return {}  # most engines: their sizes need not be computed
        numbers = self.engine.numbers
        found = Places(numbers, numbers.at(corner(plan, "opt")))
        return host_constants(plan, found, memoryview(self.engine.file.weights))

    def run(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See :meth:`Context.run`; everything is NumPy. Strings are arrays of objects, sequences lists."""
        made = self._run(self._accept(feeds))
        if not outputs:
            return made
        check_names(outputs, self.engine.plan.outputs, "output")
        for binding, _ in self._outputs:
            if binding.name in outputs:
                made[binding.name] = write_into(outputs[binding.name], made[binding.name], binding)
        return made

    def _run(self, arrays: Sequence[Array]) -> dict[str, Any]:
        if self._one:
            name, function, _, _ = self._steps[0]
            return dict(zip(self._results, call(function, arrays, name), strict=True))
        values = dict(self._constants)
        for (_, _, index), array in zip(self._inputs, arrays, strict=True):
            values[index] = array
        for name, function, reads, writes in self._steps:
            results = call(function, [values[i] for i in reads], name)
            for index, result in zip(writes, results, strict=True):
                values[index] = result
        return {binding.name: values[index] for binding, index in self._outputs}

    def step_times(self, feeds: Mapping[str, Any]) -> list[float]:
        """Seconds of every step of one run, in the order of the engine's schedule."""
        clock, times = time.perf_counter, []
        values = self._constants | dict(zip((i for _, _, i in self._inputs), self._accept(feeds), strict=True))
        for name, function, reads, writes in self._steps:
            start = clock()
            results = call(function, [values[i] for i in reads], name)
            times.append(clock() - start)
            values.update(zip(writes, results, strict=True))
        return times

    def _accept(self, feeds: Mapping[str, Any]) -> list[Array]:
        """The inputs in order, checked; quick when nothing changed since the last run."""
        if feeds.keys() != self._names:
            check_names(feeds, self.engine.plan.inputs, "input")
            require_all(feeds, self.engine.plan.inputs)
        arrays = []
        for binding, dtype, _ in self._inputs:
            feed = feeds[binding.name]
            plain = type(feed) is np.ndarray and feed.dtype == dtype and feed.flags.c_contiguous
            if not plain or dtype.kind == "O":
                if on_device(feed):
                    raise IngotError(
                        "it lies in CUDA memory, but this engine was built for the CPU",
                        node=f"input {binding.name!r}",
                        fix="pass a host array, or build for the GPU",
                    )
                feed = host_value(feed, binding)
            arrays.append(feed)
        shapes = tuple(map(shape_of, arrays))
        if shapes != self._shapes:
            dims.solve(self.engine.plan, dict(zip((b.name for b, _, _ in self._inputs), shapes, strict=True)))
            self._shapes = shapes
        return arrays

    def bind(
        self,
        shapes: Shapes | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind host arrays: ``inputs`` are read by every :meth:`enqueue`; without them, new zeroed ones."""
        plan = self.engine.plan
        if outputs:
            raise IngotError("an engine for the CPU makes its outputs anew", fix="read context.output(name)")
        given: dict[str, Any] = dict(inputs or {})
        check_names({**given, **(shapes or {})}, plan.inputs, "input")
        whole = dims.or_best(plan, shapes or {})
        for binding, _, _ in self._inputs:
            if binding.name not in given:
                given[binding.name] = empty_value(binding, whole[binding.name])
        self._bound = self._accept(given)
        self._given = dict(zip((b.name for b, _, _ in self._inputs), self._bound, strict=True))

    def enqueue(self, stream: Any = None) -> None:
        """Runs at once: on the host there is nothing to wait for afterwards."""
        if len(self._given) != len(self._inputs):
            raise IngotError("nothing is bound", fix="call context.bind(...) first")
        self._made = self._run(self._bound)

    def synchronize(self, *, spin: bool = False) -> None:
        """Nothing to wait for."""

    def input(self, name: str) -> Array:
        """The bound array of an input."""
        if name not in self._given:
            raise IngotError(f"no input called {name!r} is bound", fix="call context.bind(...) first")
        return self._given[name]

    def output(self, name: str) -> Array:
        """What the last :meth:`enqueue` made."""
        if name not in self._made:
            raise IngotError(f"there is no output {name!r} yet", fix="call context.enqueue() first")
        return self._made[name]


def empty_value(binding: Binding, shape: tuple[int, ...]) -> Any:
    """A value for an input that is not given yet: zeros, empty strings, an empty sequence, nothing."""
    inner = nested(binding.dtype)
    if inner is not None:
        return {"sequence": [], "map": {}}.get(inner[0])
    dtype = numpy_dtype(binding.dtype)
    return np.full(shape, "", object) if dtype.kind == "O" else np.zeros(shape, dtype)


def write_into(target: Any, array: Array, binding: Binding) -> Any:
    """Copy an output into the caller's writable NumPy array, which must fit exactly."""
    node = f"output {binding.name!r}"
    if not isinstance(array, np.ndarray):
        raise IngotError(f"{binding.dtype} is no array: it cannot be written into one", node=node)
    if not isinstance(target, np.ndarray) or not target.flags.writeable:
        raise IngotError("the array to write into is not a writable NumPy array", node=node)
    if target.dtype != array.dtype:
        raise dtype_error(binding, str(target.dtype), "output")
    if target.shape != array.shape:
        raise IngotError(f"the array to write into has shape {list(target.shape)}, not {list(array.shape)}", node=node)
    target[...] = array
    return target
