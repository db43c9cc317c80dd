"""Small lowered Graphs by hand, their engines without machine code, and their ONNX Runtime oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from ingot.engine.file import EngineFile
from ingot.graph import dtypes
from ingot.graph.dims import evaluate_shape
from ingot.graph.lowered import Lowered, SymbolRange, Window
from ingot.graph.region import Attr, BodyOp, Kind, Region, Scalar
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Pdl, Program
from ingot.plan.build import PlanBundle, build_plan
from ingot.tune.hollow import hollow_choices

NHWC = (0, 2, 3, 1)
Literal = Scalar | tuple[Scalar, ...]


def op(name: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Attr) -> BodyOp:
    """A body op with sorted attributes."""
    return BodyOp(name, tuple(inputs), tuple(outputs), tuple(sorted(attrs.items())))


class GraphBuilder:
    """Collects values and Regions; every value that a Region makes must have been declared."""

    def __init__(self) -> None:
        self.values: dict[str, TensorSpec] = {}
        self.inputs: list[str] = []
        self.regions: list[Region] = []
        self.constants: dict[str, np.ndarray] = {}
        self.windows: dict[str, Window] = {}
        self.ranges: list[SymbolRange] = []
        self.hosts: dict[str, bytes] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: str = "float32") -> None:
        """An input of the Graph."""
        self.inputs.append(name)
        self.values[name] = spec(dtype, tuple(shape))

    def value(
        self, name: str, shape: Sequence[int | str], order: tuple[int, ...] | None = None, dtype: str = "float32"
    ) -> None:
        """A Value with memory of its own."""
        self.values[name] = spec(dtype, tuple(shape), order)

    def window(
        self, name: str, parent: str, shape: Sequence[int | str], strides: Sequence[int | str], offset: int | str = 0
    ) -> None:
        """A Value inside another."""
        self.values[name] = TensorSpec(self.values[parent].dtype, tuple(shape), tuple(strides), align=4)
        self.windows[name] = Window(parent, offset)

    def constant(self, name: str, array: np.ndarray, order: tuple[int, ...] | None = None) -> None:
        """A weight."""
        self.constants[name] = array
        self.values[name] = spec(str(array.dtype), array.shape, order, constant=True)

    def region(
        self,
        kind: Kind,
        ops: Sequence[BodyOp],
        outputs: Sequence[str],
        inner: Mapping[str, TensorSpec] | None = None,
        literals: Mapping[str, Literal] | None = None,
    ) -> None:
        """A Region; its inputs are what its ops read and do not make, without literals."""
        made = {n for o in ops for n in o.outputs}
        inputs = dict.fromkeys(n for o in ops for n in o.inputs if n and n not in made and n not in (literals or {}))
        specs = {n: self.values[n] for n in (*inputs, *outputs)} | dict(inner or {})
        self.regions.append(
            Region(
                kind, f"{ops[0].op}_{len(self.regions)}", tuple(inputs), tuple(outputs), tuple(ops),
                tuple(specs.items()), tuple((literals or {}).items()),
            )
        )  # fmt: skip

    def step(self, kind: Kind, name: str, inputs: Sequence[str], output: str, **attrs: Attr) -> None:
        """A Region of one op."""
        self.region(kind, [op(name, inputs, [output], **attrs)], [output])

    def host(self, name: str, inputs: Sequence[str], output: str, **attrs: Attr) -> None:
        """An island of one op."""
        self.step(Kind.HOST, name, inputs, output, **attrs)
        region = self.regions[-1]
        self.hosts[region.name] = _model([region], list(inputs), [output], self.values, {}).SerializeToString()

    def lowered(self, outputs: Sequence[str]) -> Lowered:
        """The finished Graph."""
        return Lowered(
            tuple(self.inputs), tuple(outputs), dict(self.values), tuple(self.regions), dict(self.constants),
            dict(self.windows), tuple(self.ranges), dict(self.hosts),
        )  # fmt: skip


def engine_of(bundle: PlanBundle) -> EngineFile:
    """The engine file of a plan."""
    return EngineFile(bundle.plan, bundle.weights, bundle.cubins, bundle.models, {"made by": "test"})


def plan_engine(
    lowered: Lowered, programs: Mapping[int, Program] | None = None, pdl: Pdl = Pdl.NONE, target: str = "sm_90"
) -> EngineFile:
    """Plans ``lowered`` and takes the engine through its file form."""
    bundle = build_plan(lowered, hollow_choices(lowered, programs, pdl), target)
    return EngineFile.from_bytes(engine_of(bundle).to_bytes())


def feeds_of(lowered: Lowered, bindings: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in lowered.inputs:
        value = lowered.values[name]
        shape = evaluate_shape(value.shape, bindings or lowered.bindings())
        feeds[name] = rng.standard_normal(shape).astype(dtypes.numpy_dtype(value.dtype))
    return feeds


def oracle(lowered: Lowered, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the same ops as one model in ONNX Runtime."""
    model = _model(lowered.regions, lowered.inputs, lowered.outputs, lowered.values, lowered.constants)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(lowered.outputs, session.run(list(lowered.outputs), dict(feeds)), strict=True))


def _model(
    regions: Sequence[Region],
    inputs: Sequence[str],
    outputs: Sequence[str],
    values: Mapping[str, TensorSpec],
    constants: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    nodes, tensors = [], {name: numpy_helper.from_array(array, name) for name, array in constants.items()}
    for region in regions:
        for body in region.ops:
            attrs = {k: list(v) if isinstance(v, tuple) else v for k, v in body.attrs}
            nodes.append(helper.make_node(body.op, list(body.inputs), list(body.outputs), **attrs))
        for name, value in region.literals:
            dtype = np.int64 if isinstance(value, tuple) else np.float32
            tensors[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
    ends = [
        [helper.make_tensor_value_info(n, dtypes.TABLE[values[n].dtype].onnx, list(values[n].shape)) for n in names]
        for names in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "whole", ends[0], ends[1], list(tensors.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
