"""Small models with plugins' ops, and what their kernels compute on the CPU or on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.host_cuda import run_on_host

from ingot.builder.api import lower_model
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Target, Variant
from ingot.kernels.plugin import PluginTactic, _use, _work
from ingot.options import BuildOptions, parse_shapes
from ingot.plugins.api import CudaLaunch, Kernels

TARGET = Target(90)
TACTIC = PluginTactic()


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of opset 21 whose other domains have version 1."""
    domains = sorted({node.domain for node in nodes if node.domain})
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, dtype, list(shape)) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def plugin_region(model: onnx.ModelProto, shapes: Sequence[str] = ()) -> tuple[Region, Bindings]:
    """The Region of the model's only plugin, and the optimum sizes."""
    lowered = lower_model(model, TARGET, BuildOptions("sm_90", shapes=parse_shapes(list(shapes))))
    (region,) = [r for r in lowered.regions if r.kind is Kind.PLUGIN]
    return region, lowered.bindings()


def variants(region: Region, bindings: Bindings) -> Sequence[Variant]:
    """All tactics of the plugin for the Region."""
    return TACTIC.variants(region, TARGET, bindings)


def on_host(region: Region, variant: Variant, inputs: Sequence[np.ndarray], bindings: Bindings) -> list[np.ndarray]:
    """Outputs of one tactic's CUDA C++, run on the CPU."""
    plugin, node = _use(region)
    way = next(w for w in plugin.implementations if f"plugin.{w.name}" == variant.tactic)
    assert isinstance(way, Kernels)
    work = _work(plugin, way, node, {k: v for k, v in variant.params if k != "source"})
    assert all(isinstance(launch, CudaLaunch) for launch in work.launches)
    source = "".join(dict.fromkeys(launch.source for launch in work.launches if isinstance(launch, CudaLaunch)))
    return run_on_host(source, TACTIC.compile(region, variant, TARGET), region, inputs, bindings)
