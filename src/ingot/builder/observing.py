"""Calibration on a GPU: an engine in float32 that gives the observed values, whose numbers never leave the card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx_ir as ir

from ingot.builder.device_observer import DeviceObserver, DeviceRuns, Gpu, output_bytes
from ingot.builder.quantizing import proto_of
from ingot.builder.statistics_kernels import statistics_cubin
from ingot.builder.tally import Tally
from ingot.device.device import Device
from ingot.engine.bounds import corner
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.kernels.api import Target
from ingot.options import BuildOptions, Range, Shapes
from ingot.plan.spec import Plan
from ingot.precision.data import Batch
from ingot.precision.host import HostRuns
from ingot.precision.inputs import Feeds, inputs_of
from ingot.precision.observer import Observer, Wanted
from ingot.progress import Progress
from ingot.runtime.engine import Engine
from ingot.runtime.places import capacity, device_bindings

Build = Callable[[onnx.ModelProto, BuildOptions], EngineFile]
"""Builds an engine for the target of the device, without using it."""

_OPT_LEVEL = 1
"""Nothing is measured: the engine runs for a second or two, and should be there in a few."""
_SHARE = 0.8
"""Of the free device memory, what calibration may take."""
_WORTH = 1 << 29
"""Observed numbers from which on the GPU is worth its kernels: seconds of a processor, ResNet-50 on 50 pictures."""


class Observers:
    """Gives observers on one GPU: an :data:`ingot.precision.observer.Opens`."""

    def __init__(self, device: Device, target: Target, build: Build, *, always: bool) -> None:
        """``always``: however few samples there are."""
        self._device, self._target, self._build = device, target, build
        self._always = always

    def __call__(
        self, model: ir.Model, wanted: Wanted, first: Batch, samples: int | None, progress: Progress
    ) -> Observer | No:
        """An observer for batches like the ``first``, with as many samples or fewer; or why there is none."""
        if not self._always and samples is not None:
            numbers = _numbers(model, wanted, first.feeds) * samples // max(1, first.samples)
            if numbers < _WORTH:
                return No(f"{numbers:,} numbers are seen sooner than kernels are compiled")
        progress("observer", 0, 1)
        try:
            found = self._opened(model, wanted, first.feeds)
        except IngotError as error:
            found = No(error.reason, error.node, error.fix)
        progress("observer", 1, 1)
        return found

    def _opened(self, model: ir.Model, wanted: Wanted, feeds: Feeds) -> Observer | No:
        names = [name for name in wanted.names if name not in feeds]
        if not names:
            return No("only inputs of the model are observed")
        proto = proto_of(_giving(model, names))
        shapes = _shapes(proto, feeds)
        options = BuildOptions(opt_level=_OPT_LEVEL, shapes=shapes, bodies=False)
        whole = self._build(proto, options)
        refused = _refused(whole.plan, wanted)
        if refused is not None:
            return refused
        budget = int(_SHARE * self._device.memory()[0])
        groups = _groups(whole.plan, budget)
        if isinstance(groups, No):
            return groups
        files = [whole]
        if len(groups) > 1:
            files = [self._build(proto_of(_giving(model, group)), options) for group in groups]
        if _bytes([file.plan for file in files]) > budget:
            return _too_large([file.plan for file in files], budget)
        gpu = DeviceRuns([Engine(file) for file in files], self._device)
        tally = Tally(wanted, Gpu(gpu.stream, statistics_cubin(self._target), self._device.info.sms))
        return DeviceObserver(gpu, tally, shapes, lambda: HostRuns(proto, names))


def _giving(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of ``model`` whose outputs are the values ``names``."""
    copy = model.clone()
    made = {str(value.name): value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [made[name] for name in names]
    return copy


def _numbers(model: ir.Model, wanted: Wanted, feeds: Feeds) -> int:
    """How many numbers of a batch are observed, as far as shapes are known."""
    known: dict[object, int] = {}
    for value in model.graph.inputs:
        known.update(zip(value.shape or (), feeds[str(value.name)].shape, strict=False))
    values = (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
    shapes = [value.shape for value in values if value.name in wanted.names and value.shape is not None]
    return sum(math.prod(dim if isinstance(dim, int) else known.get(dim, 1) for dim in shape) for shape in shapes)


def _shapes(model: onnx.ModelProto, feeds: Feeds) -> Shapes:
    """Those of ``feeds``; where the model leaves the number of samples open, fewer are allowed, too."""
    found = []
    for given in inputs_of(model):
        dims = feeds[given.name].shape
        least = (1, *dims[1:]) if dims and given.shape[0] is None else dims
        found.append((given.name, tuple(Range(a, b, b) for a, b in zip(least, dims, strict=True))))
    return tuple(found)


def _refused(plan: Plan, wanted: Wanted) -> No | None:
    """Why the device cannot make all values that are ``wanted``; None where it can."""
    if plan.target == "cpu":
        return No(next(iter(plan.reasons), "the whole model runs on the host"))
    host = next((step for step in plan.steps if step.kind == "host"), None)
    if host is not None:
        why = next((reason for reason in plan.reasons if reason.startswith(f"{host.name}: ")), host.name)
        return No(f"part of the model runs on the host: {why}")
    touched = device_bindings(plan)
    for space, bindings in (("input", plan.inputs), ("output", plan.outputs)):
        for binding in (b for b in bindings if b.name in wanted.names):
            if binding.dtype != "float32":
                return No(f"{binding.name} is {binding.dtype}")
            if (space, binding.name) not in touched:
                return No(f"nothing of what is observed on the GPU reads {binding.name}")
    return None


def _groups(plan: Plan, budget: int) -> list[list[str]] | No:
    """The outputs of ``plan`` in as few groups as fit ``budget`` bytes one after another, each with its own engine."""
    sizes = {b.name: size for b, size in zip(plan.outputs, output_bytes(plan), strict=True)}
    for count in (1, 2, 4, 8, 16):
        groups = _filled(sizes, budget - plan.arena_bytes - count * plan.weights_bytes)
        if groups is not None and len(groups) <= count:
            return groups
    return _too_large([plan], budget)


def _filled(sizes: Mapping[str, int], limit: int) -> list[list[str]] | None:
    """Names in their order, each group of at most ``limit`` bytes; None where one alone is larger."""
    groups, left = list[list[str]](), 0
    for name, size in sizes.items():
        if size > limit:
            return None
        if not groups or size > left:
            groups.append([])
            left = limit
        groups[-1].append(name)
        left -= size
    return groups


def _bytes(plans: Sequence[Plan]) -> int:
    """Device memory of :class:`DeviceRuns`."""
    inputs = sum(sum(size for base, size in capacity(p, corner(p, "max")).items() if base[0] == "input") for p in plans)
    weights = sum(plan.weights_bytes for plan in plans)
    return inputs + weights + max(p.arena_bytes for p in plans) + max(sum(output_bytes(p)) for p in plans)


def _too_large(plans: Sequence[Plan], budget: int) -> No:
    need = _bytes(plans)
    return No(f"the observed values take {need / 2**30:.1f} GiB, and {budget / 2**30:.1f} GiB of the GPU can be used")
