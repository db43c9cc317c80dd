"""What a Region computes, on the host: the truth for the tuner's gate, the simulator and comparisons.

The Region becomes a small ONNX model that ONNX Runtime runs; what ONNX Runtime lacks runs in ONNX's own
reference evaluator. 16-bit floats are computed in float32 and rounded once, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate, evaluate_shape
from ingot.graph.op_table import PARAMETERS
from ingot.graph.recurrent import DOMAIN as RECURRENT
from ingot.graph.recurrent import GATES
from ingot.graph.recurrent_body import recurrent_nodes
from ingot.graph.region import Attr, BodyOp, Literal, Region, Scalar
from ingot.graph.scalar_ops import is_scalar_op

_SINCE = {"Gelu": 20, "RMSNormalization": 23, "Attention": 23, "Swish": 24, "BitCast": 26}
"""Ops newer than the opset that importers aim at."""
_FLOAT_PARAMETERS = {("Resize", 1), ("Resize", 2)}
_OUTPUT_TYPED = {("OneHot", 2), ("Range", 0), ("Range", 1), ("Range", 2)}
_FLOAT = int(onnx.TensorProto.FLOAT)
_IR_VERSION = 10
_FLOAT8 = "float8_e4m3fn"
_TO_AND_FROM = frozenset({"QuantizeLinear", "DequantizeLinear"})
_HALF_CODES = frozenset(dtypes.TABLE[name].onnx for name in dtypes.WIDENED)


def run_region(
    region: Region, feeds: Mapping[str, np.ndarray], bindings: Bindings, *, high_precision: bool = False
) -> dict[str, np.ndarray]:
    """The outputs of ``region`` by name, in logical shapes.

    ``feeds`` gives its inputs in their storage types. With ``high_precision`` results of 16-bit floats stay
    float32; otherwise they are rounded to their type. Raises IngotError when nothing can run the Region.
    """
    wide = {name: _widened(np.asarray(array)) for name, array in feeds.items()}
    results = run_model(region_model(region, bindings, wide=True), wide, region.outputs)
    made = dict(zip(region.outputs, results, strict=True))
    if high_precision:
        return made
    return {name: _stored(array, region.spec_of[name].dtype) for name, array in made.items()}


def region_model(region: Region, bindings: Bindings, *, wide: bool = False) -> onnx.ModelProto:
    """The Region as an ONNX model of fixed shapes.

    Its inputs and outputs have the Region's names and types, or (``wide``) float32 for 16-bit floats, which
    are computed in float32 either way.
    """
    entry: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for name in region.inputs if not wide else ():
        if region.spec_of[name].dtype in dtypes.WIDENED:
            renamed[name] = f"{name}/wide"
            entry.append(helper.make_node("Cast", [name], [renamed[name]], to=_FLOAT))
    leave: list[onnx.NodeProto] = []
    for name in region.outputs if not wide else ():
        if region.spec_of[name].dtype in dtypes.WIDENED:
            renamed[name] = f"{name}/wide"
            target = dtypes.TABLE[region.spec_of[name].dtype].onnx
            leave.append(helper.make_node("Cast", [renamed[name]], [name], to=target))
    nodes, initializers = _nodes(region, bindings, renamed)
    graph = helper.make_graph(
        [*entry, *nodes, *leave],
        "region",
        [_info(region, name, bindings, wide) for name in region.inputs],
        [_info(region, name, bindings, wide) for name in region.outputs],
        initializers,
    )
    opset = max([region.opset, *(_SINCE.get(op.op, 0) for op in region.ops)])
    imports = {"": opset} | {op.domain: 1 for op in region.ops if op.domain not in ("", "ai.onnx", RECURRENT)}
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def run_model(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> list[np.ndarray[Any, Any]]:
    """Results of ``outputs``. Raises IngotError when neither ONNX Runtime nor the evaluator can run the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # The body is computed as written: the truth is not to be optimised into something else.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feeds = {name: np.asarray(array, order="C") for name, array in feeds.items()}
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(a) for a in session.run(list(outputs), feeds)]
    except Exception as error:  # onnxruntime raises its own, undocumented types
        refusal = str(error)
    try:
        from onnx.reference import ReferenceEvaluator

        return [np.asarray(a) for a in ReferenceEvaluator(model).run(list(outputs), feeds)]
    except Exception as error:
        raise IngotError(
            f"no host reference: ONNX Runtime says {refusal[:200]!r}, ONNX's evaluator {str(error)[:200]!r}"
        ) from None


# -- building the model


def _nodes(
    region: Region, bindings: Bindings, renamed: Mapping[str, str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for index, op in enumerate(region.ops):
        names = []
        for position, name in enumerate(op.inputs):
            value = region.literal(name) if name and name not in region.producer else None
            if value is None or name in region.inputs:
                names.append(renamed.get(name, name))
                continue
            # One initializer for each use: the type of a literal follows from where it is used.
            literal = f"literal{index}.{position}"
            initializers.append(_literal(region, op, position, value, bindings, literal))
            names.append(literal)
        if op.op == "Attention" and len(names) > 3 and names[3]:
            names[3] = _whole_mask(region, op, names[3], bindings, nodes, initializers)
        made = [renamed.get(name, name) for name in op.outputs]
        if op.domain == RECURRENT and op.op in GATES:
            more, constants = recurrent_nodes(region, op, names, made, f"recurrent{index}")
            nodes.extend(more)
            initializers.extend(constants)
        elif op.op in _TO_AND_FROM and region.spec_of[_narrow_side(op)].dtype in dtypes.WIDENED:
            nodes.extend(_float8(op, names, made[0], index))
        else:
            nodes.append(_node(region, op, names, made, bindings))
    return nodes, initializers


def _whole_mask(
    region: Region,
    op: BodyOp,
    mask: str,
    bindings: Bindings,
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
) -> str:
    """A mask with a row for every query: ONNX Runtime does not broadcast along the queries."""
    queries = evaluate_shape(region.shape(op.inputs[0]), bindings)
    shape = list(evaluate_shape(region.shape(op.inputs[3]), bindings))
    if len(shape) < 2 or shape[-2] == queries[-2]:
        return mask
    shape[-2] = queries[-2]
    initializers.append(numpy_helper.from_array(np.array(shape, np.int64), f"{mask}/shape"))
    nodes.append(helper.make_node("Expand", [mask, f"{mask}/shape"], [f"{mask}/whole"]))
    return f"{mask}/whole"


def _narrow_side(op: BodyOp) -> str:
    """The quantized value of a QuantizeLinear or DequantizeLinear."""
    return op.outputs[0] if op.op == "QuantizeLinear" else op.inputs[0]


def _float8(op: BodyOp, inputs: list[str], output: str, index: int) -> list[onnx.NodeProto]:
    """Quantization to float8, and back: a division and a rounding, or a product, of float32 values."""
    if op.op == "DequantizeLinear":
        return [helper.make_node("Mul", inputs[:2], [output])]
    quotient, rounded = (f"float8.{index}.{part}" for part in ("quotient", "rounded"))
    return [
        helper.make_node("Div", inputs[:2], [quotient]),
        helper.make_node("Cast", [quotient], [rounded], to=dtypes.TABLE[_FLOAT8].onnx),
        helper.make_node("Cast", [rounded], [output], to=_FLOAT),
    ]


def _node(region: Region, op: BodyOp, inputs: list[str], outputs: list[str], bindings: Bindings) -> onnx.NodeProto:
    attrs: dict[str, Any] = {}
    for key, value in op.attrs:
        if key in ("to", "dtype", "output_datatype") and value in _HALF_CODES:
            attrs[key] = _FLOAT
        elif (op.op, key) == ("ConstantOfShape", "value"):
            dtype = dtypes.numpy_dtype(_wide(region.spec_of[op.outputs[0]].dtype))
            attrs[key] = numpy_helper.from_array(np.array([value], dtype))
        elif not isinstance(value, tuple) or value:
            attrs[key] = _attribute(value, bindings)
    return helper.make_node(op.op, inputs, outputs, domain=op.domain, **attrs)


def _attribute(value: Attr, bindings: Bindings) -> Any:
    if isinstance(value, tuple):
        return [evaluate(item, bindings) if isinstance(item, str) else item for item in value]
    return value


def _literal(
    region: Region, op: BodyOp, position: int, value: Literal, bindings: Bindings, name: str
) -> onnx.TensorProto:
    def number(item: Scalar | str) -> Scalar:
        return evaluate(item, bindings) if isinstance(item, str) else item

    array = np.asarray([number(v) for v in value] if isinstance(value, tuple) else number(value))
    if is_scalar_op(op.op) and not array.ndim:
        # A literal has lost its rank, which counts where it is the highest: [] == [1] has rank 1.
        others = (len(region.spec_of[n].shape) for n in op.inputs if n in region.inputs or n in region.producer)
        rank = len(region.spec_of[op.outputs[0]].shape)
        array = array.reshape((1,) * rank) if rank > max(others, default=0) else array
    return numpy_helper.from_array(array.astype(_literal_type(region, op, position, array)), name)


def _literal_type(region: Region, op: BodyOp, position: int, array: np.ndarray) -> np.dtype[Any]:
    """Element type of a literal by the op and the place it is used in."""
    known = region.spec_of.get(op.inputs[position])
    kind = (op.op, position)
    if known is not None:
        dtype = known.dtype
    elif kind in _FLOAT_PARAMETERS:
        dtype = "float32"
    elif kind in _OUTPUT_TYPED:
        dtype = region.spec_of[op.outputs[0]].dtype
    elif kind == ("Pad", 2):
        dtype = region.spec_of[op.inputs[0]].dtype
    elif op.op in _TO_AND_FROM and position:
        dtype = "float32" if position == 1 else region.spec_of[_narrow_side(op)].dtype
    elif kind in (("Where", 0), ("Dropout", 2)):
        dtype = "bool"
    elif position in PARAMETERS.get(op.op, ()) or kind == ("Gather", 1):
        dtype = "int64"
    else:
        dtype = _sibling_type(region, op)
        if kind == ("Pow", 1) and array.dtype.kind == "f" and not dtypes.is_float(dtype):
            dtype = "float32"
    return dtypes.numpy_dtype(_wide(dtype))


def _sibling_type(region: Region, op: BodyOp) -> str:
    """Type of the tensors beside a literal operand."""
    operands = op.inputs[1:] if op.op == "Where" else op.inputs
    tensors = [n for n in operands if n in region.spec_of and (n not in region.literal_of or n in region.producer)]
    return region.spec_of[tensors[0] if tensors else op.outputs[0]].dtype


def _info(region: Region, name: str, bindings: Bindings, wide: bool) -> onnx.ValueInfoProto:
    spec = region.spec_of[name]
    dtype = _wide(spec.dtype) if wide else spec.dtype
    return helper.make_tensor_value_info(name, dtypes.TABLE[dtype].onnx, evaluate_shape(spec.shape, bindings))


# -- 16-bit floats


def _wide(dtype: str) -> str:
    return "float32" if dtype in dtypes.WIDENED else dtype


def _widened(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.float32) if array.dtype.name in dtypes.WIDENED else array


def _stored(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        return array.astype(dtypes.numpy_dtype(dtype), copy=False)
