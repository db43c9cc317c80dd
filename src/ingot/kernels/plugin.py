"""Runs the ops of plugins: their CUDA C++ and Triton kernels compiled, or their Python function recorded."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, IngotError, No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, divisible, symbols
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Argument, Input, Kernel, Null, Output, Pdl, Program, Scratch, Target, Value, Variant
from ingot.kernels.api import Workspace as ProgramWorkspace
from ingot.kernels.cost import region_bytes, streaming_seconds
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.triton.aot import compile_source
from ingot.plugins import api
from ingot.plugins.record import node_of, plugin_of, record_of

_PREFIX = "plugin."
_SOURCE = "source"
"""Parameter of every variant: a digest of its launches, so that measured times and cached code of others are not
taken for it."""
_CALL = 10e-6
"""Seconds that a Python function between two graphs costs, about."""


@dataclass(frozen=True)
class PluginTactic:
    """Every implementation of every active plugin. A variant is called after the implementation."""

    name: str = "plugin"
    kinds: frozenset[Kind] = frozenset({Kind.PLUGIN})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes where some implementation takes the node."""
        plugin, node = _use(region)
        if plugin.dtypes:
            for info in (*node.inputs, *node.outputs):
                if info is not None and info.dtype not in plugin.dtypes:
                    return No(f"the kernels of {plugin.op} do not take {info.dtype}")
        reasons = [f"{way.name}: {reason}" for way, reason in _answers(plugin, node) if reason]
        if len(reasons) < len(plugin.implementations):
            return YES
        return No("; ".join(reasons) or f"{plugin.op} has no implementation for the device")

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """The tactics of all implementations that take the node; Python functions only where there is no kernel."""
        plugin, node = _use(region)
        found = [
            Variant(_name(way), (*sorted(tactic.items()), (_SOURCE, _digest(_work(plugin, way, node, tactic)))))
            for way, tactic in _offers(plugin, node)
        ]
        return found or [Variant(_name(way)) for way, reason in _answers(plugin, node) if not reason][:1]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of every launch. Raises IngotError where the plugin's source does not compile."""
        plugin, node = _use(region)
        way = _way(plugin, variant)
        if isinstance(way, api.OnStream):
            return Program((), call=record_of(region))
        params = {name: value for name, value in variant.params if name != _SOURCE}
        work = _work(plugin, way, node, params)
        maker = _Maker(region, node, target, plugin.op, work.workspaces)
        kernels = tuple(maker.kernel(launch) for launch in work.launches)
        return Program(kernels, tuple(ProgramWorkspace(size) for size in work.workspaces), work.deterministic)

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Bound by memory, for want of anything better; the likelier tactics are listed first and win ties."""
        plugin, node = _use(region)
        seconds = streaming_seconds(region_bytes(region, bindings), target)
        if isinstance(_way(plugin, variant), api.OnStream):
            return seconds + _CALL
        offers = [(_name(way), tuple(sorted(tactic.items()))) for way, tactic in _offers(plugin, node)]
        order = offers.index((variant.tactic, variant.params[:-1]))  # the last one is _SOURCE
        return seconds * (1 + 1e-3 * order)


def _use(region: Region) -> tuple[api.Plugin, api.Node]:
    plugin = plugin_of(region)
    return plugin, node_of(plugin, region.ops[0], region.spec_of)


def _name(way: api.Kernels | api.OnStream) -> str:
    """What the implementation's variants are called."""
    return f"{_PREFIX}{way.name}"


def _way(plugin: api.Plugin, variant: Variant) -> api.Kernels | api.OnStream:
    return next(way for way in plugin.implementations if _name(way) == variant.tactic)


def _offers(plugin: api.Plugin, node: api.Node) -> list[tuple[api.Kernels, Mapping[str, int]]]:
    """The tactics of all kernels that take the node, the likeliest first."""
    kernels = (way for way, reason in _answers(plugin, node) if not reason and isinstance(way, api.Kernels))
    return [(way, tactic) for way in kernels for tactic in way.tactics]


def _answers(plugin: api.Plugin, node: api.Node) -> list[tuple[api.Kernels | api.OnStream, str]]:
    return [(way, way.accepts(node)) for way in plugin.implementations]


def _work(plugin: api.Plugin, way: api.Kernels, node: api.Node, tactic: Mapping[str, int]) -> api.Work:
    """What a tactic launches. Raises IngotError where the plugin's code fails or what it gives makes no sense."""
    where = f"plugin {plugin.op}, {way.name}"
    try:
        work = way.make(node, dict(tactic))
    except IngotError:
        raise
    except Exception as error:  # the plugin's own code
        raise IngotError(f"making its launches fails: {type(error).__name__}: {error}", node=where) from error
    if not work.launches:
        raise IngotError("it launches nothing", node=where, fix="give at least one launch")
    for launch in work.launches:
        threads = launch.block if isinstance(launch, api.CudaLaunch) else 32 * launch.num_warps
        if not 1 <= threads <= 1024:
            raise IngotError(f"a block of {threads} threads", node=where, fix="take 1 to 1024")
    return work


def _digest(work: api.Work) -> int:
    return zlib.crc32(repr(work).encode())


@dataclass(frozen=True)
class _Maker:
    """Turns launches of one node into kernels."""

    region: Region
    node: api.Node
    target: Target
    op: str
    workspaces: tuple[Dim, ...]

    def kernel(self, launch: api.CudaLaunch | api.TritonLaunch) -> Kernel:
        return self._cuda(launch) if isinstance(launch, api.CudaLaunch) else self._triton(launch)

    def _cuda(self, launch: api.CudaLaunch) -> Kernel:
        try:
            cubin = compile_cuda(launch.source, launch.entry, self.target).cubin
        except AssertionError as error:  # of Ingot's own sources that would be a bug of Ingot
            raise IngotError(f"its CUDA source does not compile: {error}", node=f"plugin {self.op}") from None
        pdl = Pdl.WAITS if launch.waits and self.target.pdl else Pdl.NONE
        arguments = tuple(self._argument(a) for a in launch.arguments)
        return Kernel(launch.entry, cubin, launch.grid, launch.block, launch.shared, arguments, pdl)

    def _triton(self, launch: api.TritonLaunch) -> Kernel:
        signature = {name: self._type(argument) for name, argument in launch.parameters}
        aligned = frozenset(name for name, argument in launch.parameters if self._aligned(argument))
        made = compile_source(
            launch.source, launch.function, signature, launch.constants, num_warps=launch.num_warps,
            num_stages=launch.num_stages, target=self.target, aligned=aligned,
        )  # fmt: skip
        arguments = (*(self._argument(a) for _, a in launch.parameters), *(Null(),) * made.nulls)
        return Kernel(made.entry, made.cubin, launch.grid, made.threads, made.shared, arguments)

    def _argument(self, argument: api.Argument) -> Argument:
        op = self.region.ops[0]
        match argument:
            case api.In(index):
                name = op.inputs[index] if index < len(op.inputs) else ""
                return Input(self.region.inputs.index(name)) if name else Null()
            case api.Out(index):
                name = op.outputs[index] if index < len(op.outputs) else ""
                return Output(self.region.outputs.index(name)) if name else Null()
            case api.Scratch(index):
                if not 0 <= index < len(self.workspaces):
                    raise IngotError(f"there is no workspace {index}", node=f"plugin {self.op}")
                return Scratch(index)
            case api.Number(value, size):
                unknown = symbols(value) - _symbols(self.region)
                if unknown or size not in (4, 8):
                    what = f"it depends on {', '.join(sorted(unknown))}" if unknown else f"of {size} bytes"
                    raise IngotError(f"argument {value!r} cannot be computed: {what}", node=f"plugin {self.op}")
                return Value(value, size)

    def _info(self, argument: api.Argument) -> api.TensorInfo | None:
        match argument:
            case api.In(index):
                return self.node.inputs[index] if index < len(self.node.inputs) else None
            case api.Out(index):
                return self.node.outputs[index] if index < len(self.node.outputs) else None
        return None

    def _type(self, argument: api.Argument) -> str:
        if isinstance(argument, api.Number):
            return "i32" if argument.bytes == 4 else "i64"
        info = self._info(argument)
        return f"*{dtypes.TABLE[info.dtype].triton}" if info is not None else "*u8"

    def _aligned(self, argument: api.Argument) -> bool:
        if isinstance(argument, api.Number):
            return divisible(argument.value, 16)
        info = self._info(argument)
        return isinstance(argument, api.Scratch) or (info is not None and info.align % 16 == 0)


def _symbols(region: Region) -> frozenset[str]:
    """Symbolic dimensions of the Region's tensors."""
    none: frozenset[str] = frozenset()
    return none.union(*(symbols(dim) for _, spec in region.values for dim in spec.shape))


TACTICS: tuple[PluginTactic, ...] = (PluginTactic(),)
