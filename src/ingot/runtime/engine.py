"""An engine ready to be run: the file, and once a GPU is used, its weights and machine code there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from ingot.device.device import Device
from ingot.device.memory import Buffer
from ingot.device.module import Function, Module
from ingot.engine.file import EngineFile
from ingot.engine.numbers import PlanNumbers
from ingot.errors import IngotError
from ingot.plan.spec import Binding, Dim, Plan, Step
from ingot.plugins.api import Plugin
from ingot.plugins.record import read_record, reference
from ingot.plugins.registry import Plugins, active, using
from ingot.runtime.choose import common_shape, named
from ingot.runtime.hostmodel import HostFunction, load_host_model
from ingot.runtime.stages import Stage, stages
from ingot.runtime.stream_call import StreamFunction, stream_function

if TYPE_CHECKING:
    from ingot.runtime.context import Context


@dataclass(frozen=True)
class IO:
    """One input or output: its dimensions are integers or expressions over the profile's symbols.

    ``?`` is one that is fixed in each of several profiles, at different sizes.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]


def load(path: str | os.PathLike[str], *, plugins: Sequence[Plugin] = ()) -> Engine:
    """The engine in the file ``path``.

    ``plugins``: those that it needs beside the ones of installed packages. Raises IngotError when the file is
    missing, damaged or foreign, or a plugin is missing.
    """
    with using(plugins):
        return Engine(EngineFile.read(path))


@dataclass
class _OnDevice:
    """What is on the GPU, for all Contexts and all profiles."""

    lock: Lock = field(default_factory=Lock)
    modules: dict[int, Module] = field(default_factory=dict)
    """By index into the table of machine code, which all plans of a file have in common."""
    weights: Buffer | None = None
    device: Device | None = None


class Engine:
    """A built model. Contexts run it; all of them share its weights."""

    def __init__(self, file: EngineFile, there: _OnDevice | None = None, plugins: Plugins | None = None) -> None:
        """``there``: what an Engine with the same segments has on the device already.

        Raises IngotError when the engine needs a plugin that is not among ``plugins``, the active ones if None.
        """
        self.file = file
        self._there = there or _OnDevice()
        self._plugins = _needed(file, plugins or active())

    @property
    def plan(self) -> Plan:
        """The schedule, as built; of the first profile where there are several."""
        return self.file.plan

    @property
    def target(self) -> str:
        """``sm_90`` ... or ``cpu``."""
        return self.plan.target

    @property
    def inputs(self) -> tuple[IO, ...]:
        """Inputs in the model's order."""
        return tuple(map(_io, zip(*(plan.inputs for plan in self.file.plans), strict=True)))

    @property
    def outputs(self) -> tuple[IO, ...]:
        """Outputs in the model's order."""
        return tuple(map(_io, zip(*(plan.outputs for plan in self.file.plans), strict=True)))

    @property
    def profile(self) -> Mapping[str, tuple[int, int, int]]:
        """Minimum, optimum and maximum of every symbolic dimension; of the first profile where there are several."""
        return _bounds(self.plan)

    @property
    def profiles(self) -> Mapping[str, Mapping[str, tuple[int, int, int]]]:
        """As :attr:`profile` for every profile by its name, which is empty where there is one only."""
        return {plan.name: _bounds(plan) for plan in self.file.plans}

    @cached_property
    def variants(self) -> Mapping[str, Engine]:
        """An Engine for each profile alone, by name; weights and machine code are on the device once."""
        if not self.file.others:
            return {self.plan.name: self}
        return {plan.name: Engine(self.file.alone(plan), self._there, self._plugins) for plan in self.file.plans}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the engine file in one step. Raises IngotError when it cannot be written."""
        self.file.write(path)

    def context(self, device: int = 0, profile: str | None = None) -> Context:
        """A new Context: its own memory and stream; use it from one thread at a time.

        With several profiles, each run is by the smallest that takes its shapes; ``profile`` names the only one to use.

        Raises IngotError when GPU number ``device`` is missing or of another architecture, or
        has too little memory, or there is no such profile.
        """
        if profile is not None:
            return self.variants[named(self.file.plans, profile).name].context(device)
        from ingot.runtime.device_context import DeviceContext
        from ingot.runtime.host_context import HostContext
        from ingot.runtime.profiled_context import ProfiledContext

        if self.file.others:
            return ProfiledContext(self, device)
        return HostContext(self) if self.target == "cpu" else DeviceContext(self, device)

    @cached_property
    def numbers(self) -> PlanNumbers:
        """What of the plan depends on shapes."""
        return PlanNumbers(self.plan)

    @cached_property
    def schedule(self) -> tuple[Stage, ...]:
        """Device and host stages, in order."""
        return stages(self.plan.steps)

    @cached_property
    def models(self) -> dict[int, HostFunction]:
        """The host steps' models, loaded, by step."""
        return {index: self._model(step) for index, step in enumerate(self.plan.steps) if step.kind == "host"}

    def _model(self, step: Step) -> HostFunction:
        content = self.file.model(step.model)
        if step.backend == "plugin":
            return reference(content, self._plugins, step.name)
        return load_host_model(content, self.plan.models[step.model], step.backend, step.name)

    @cached_property
    def calls(self) -> dict[int, StreamFunction]:
        """The plugins' Python functions, by step."""
        return {
            index: stream_function(self.file.model(step.model), self._plugins, step.name)
            for index, step in enumerate(self.plan.steps)
            if step.kind == "call"
        }

    def open_device(self, ordinal: int) -> Device:
        """The GPU, checked against the engine's architecture; weights are on it afterwards."""
        device = Device.open(ordinal)
        there = self._there
        with there.lock:
            if there.device is not None and there.device is not device:
                raise IngotError(
                    f"this Engine is already on GPU {there.device.ordinal}",
                    fix="load the file once more for another GPU",
                )
            check_architecture(self.target, device)
            if there.weights is None:
                weights = Buffer(self.plan.weights_bytes, "the weights")
                weights.upload(self.file.weights)
                there.weights, there.device = weights, device
        return device

    @property
    def weights(self) -> Buffer:
        """The weights on the device, shared by all Contexts."""
        assert self._there.weights is not None, "open_device comes first"
        return self._there.weights

    def function(self, step: Step) -> Function:
        """The kernel of a step, loaded on first use."""
        modules = self._there.modules
        with self._there.lock:
            module = modules.get(step.cubin)
            if module is None:
                module = modules[step.cubin] = Module(self.file.cubin(step.cubin))
        return module.function(step.entry, step.shared, step.cluster, cooperative=step.cooperative)


def check_architecture(target: str, device: Device) -> None:
    """Raises IngotError unless the device runs machine code for ``target``.

    Code runs on later minor versions of its architecture only if it uses none of the
    architecture-specific instructions that exist from sm_90 on.
    """
    want, have = int(target.removeprefix("sm_")), device.info.cc
    if want == have or (want < 90 and want // 10 == have // 10 and want <= have):
        return
    raise IngotError(
        f"this engine was built for {target}, but GPU {device.ordinal} ({device.info.name}) is {device.info.target}",
        fix=f"build it again with --target {device.info.target}",
    )


def _needed(file: EngineFile, plugins: Plugins) -> Plugins:
    """Those of ``plugins`` that the engine's steps call. Raises IngotError where one is missing."""
    found: dict[tuple[str, str], Plugin] = {}
    for step in (step for plan in file.plans for step in plan.steps if step.backend == "plugin"):
        r = read_record(file.model(step.model))
        found[r.domain, r.name] = plugins.require(r.domain, r.name, r.version, step.name)
    return Plugins(tuple(found.values()))


def _io(bindings: tuple[Binding, ...]) -> IO:
    """One input or output, as every plan has it."""
    return IO(bindings[0].name, bindings[0].dtype, common_shape(bindings))


def _bounds(plan: Plan) -> dict[str, tuple[int, int, int]]:
    return {p.symbol: (p.min, p.opt, p.max) for p in plan.profiles}
