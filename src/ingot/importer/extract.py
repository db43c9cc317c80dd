"""A part of a model as a model of its own: what lies between two sets of Values."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_shape_inference import infer_symbolic_shapes

from ingot.errors import IngotError
from ingot.graph.edit import bodies, reads
from ingot.importer.messages import first_line, quiet
from ingot.importer.walk import check_text

_INLINE_BYTES = 1 << 30
"""More weights than this go to a file beside the model: a protobuf message holds 2 GiB."""
_NEAR = 3


def extract(
    source: str | os.PathLike[str] | onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> ir.Model:
    """The sub-model of ``source`` that computes the Values ``outputs`` from the Values ``inputs``.

    Without ``inputs`` it starts at those inputs of the model that it needs; without ``outputs`` it ends at the
    model's. Nodes, names, types, shapes and operator sets are those of ``source``; types and shapes at the cut
    are inferred where the file does not declare them. Weights in external files stay there until it is saved.

    Raises IngotError for a file that cannot be read, an unknown Value (with names like it), outputs that need more
    than ``inputs``, and inputs that no output needs.
    """
    model = _opened(source)
    graph = model.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    for name in (*inputs, *outputs):
        if name not in values:
            raise _unknown(name, values)
    starts = [values[n] for n in dict.fromkeys(inputs)] or list(graph.inputs)
    ends = [values[n] for n in dict.fromkeys(outputs)] or list(graph.outputs)
    if both := [str(v.name) for v in ends if v in starts]:
        raise IngotError("it is where the part begins and where it ends", node=both[0], fix="choose another Value")
    _settle(model, [*starts, *ends])
    _check_bounds(graph, starts, ends)
    try:
        part = ir.convenience.extract(graph, starts, ends)
    except ValueError as error:
        raise IngotError(f"these Values do not bound a part of the model: {first_line(error)}") from None
    _drop_unused(part, named=bool(inputs))
    functions = [function.clone() for function in model.functions.values()]
    made = ir.Model(part, ir_version=model.ir_version, producer_name="ingot", functions=functions)
    common.RemoveUnusedFunctionsPass()(made)  # type: ignore[no-untyped-call]
    return made


def save(model: ir.Model, path: Path) -> None:
    """Writes ``model``; with much weight also ``path`` with ``.data`` behind it. Raises IngotError where it cannot."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    weight = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    try:
        if weight > _INLINE_BYTES:
            ir.save(model, path, external_data=f"{path.name}.data")
        else:
            ir.external_data.load_to_model(model)
            ir.save(model, path)
    except (OSError, ValueError) as error:
        raise IngotError(f"cannot be written: {first_line(error)}", node=str(path), fix="check the folder") from None


def _opened(source: str | os.PathLike[str] | onnx.ModelProto) -> ir.Model:
    try:
        if isinstance(source, onnx.ModelProto):
            return ir.from_proto(source)
        proto = onnx.load(source, load_external_data=False)
        check_text(proto)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, Path(source).parent)
        return model
    except IngotError:
        raise
    except Exception as error:  # whatever a damaged file makes protobuf and the deserialiser raise
        raise IngotError(f"cannot be read: {first_line(error)}", node=str(source), fix="give an ONNX file") from None


def _unknown(name: str, known: Collection[str]) -> IngotError:
    near = difflib.get_close_matches(name, known, _NEAR, 0.5)
    fix = (
        f"did you mean {', '.join(near)}?" if near else "take a name from the model: ingot check, or Netron, show them"
    )
    return IngotError("the model has no such Value", node=name, fix=fix)


def _settle(model: ir.Model, cut: Sequence[ir.Value]) -> None:
    """Types and shapes where the model is cut."""
    if any(value.type is None or value.shape is None for value in cut):
        try:
            with quiet("onnx_shape_inference"):
                infer_symbolic_shapes(model, warn_on_missing=False)
        except Exception as error:  # rules index into what a damaged model lacks
            raise IngotError(
                f"the types at the cut are not declared and cannot be inferred: {first_line(error)}"
            ) from None
    for value in cut:
        if value.type is None:
            raise IngotError("its type is not known", node=str(value.name), fix="cut elsewhere")


def _check_bounds(graph: ir.Graph, starts: Sequence[ir.Value], ends: Sequence[ir.Value]) -> None:
    """Raises IngotError where the way back from ``ends`` meets an input of the model that is not a start.

    Or a graph inside a node that ends in a value from outside, which ONNX does not allow.
    """
    allowed, missing = set(starts), set[str]()
    seen: set[ir.Value] = set()
    stack = list(ends)
    while stack:
        value = stack.pop()
        if value in seen or value in allowed:
            continue
        seen.add(value)
        maker = value.producer()
        if maker is not None:
            _check_bodies(maker)
            stack.extend(reads(maker))
        elif value.is_graph_input() and not value.is_initializer() and value.graph is graph:
            missing.add(str(value.name))
    if missing:
        names = ", ".join(sorted(missing))
        raise IngotError(f"the outputs also need {names}", fix=f"add --from {' --from '.join(sorted(missing))}")


def _check_bodies(node: ir.Node) -> None:
    for body in (body for attr in node.attributes.values() for body in bodies(attr)):
        for graph in (body, *body.subgraphs()):
            for value in graph.outputs:
                made_here = value.producer() is not None or value.is_graph_input() or value.is_initializer()
                if value.graph is not graph or not made_here:
                    raise IngotError(
                        f"output {value.name!r} of a graph inside it is a value from outside that graph",
                        node=node.name or node.op_type,
                        fix="put an Identity node between the value and the output",
                    )


def _drop_unused(part: ir.Graph, *, named: bool) -> None:
    """Inputs that nothing reads: dropped, or (``named``) an error."""
    read = {value for node in part.all_nodes() for value in node.inputs}
    idle = [value for value in part.inputs if value not in read]
    if idle and named:
        raise IngotError(
            "no output needs it, or only through others of --from", node=str(idle[0].name), fix="leave it out"
        )
    for value in idle:
        part.inputs.remove(value)
