"""Shapes of every value, from those of the inputs: what the file declares beside them is not trusted."""

from __future__ import annotations

import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY, OpUsageError, ShapeInferenceError, infer_symbolic_shapes

from ingot.errors import IngotError
from ingot.graph.control import keep_promise
from ingot.importer import shape_rules
from ingot.importer.messages import first_line, quiet
from ingot.importer.plugin_nodes import install_rules

_HIDDEN = "ingot.hidden"
"""Domain of nodes that inference passes over."""


def infer_shapes(model: ir.Model) -> None:
    """Infers the shapes of ``model`` in place, from its inputs and initialisers alone.

    Shapes that were there before are dropped: files hold wrong ones, and the symbols of an earlier
    inference would be taken for names that the user chose. Only ops of other domains keep theirs.
    Inside control flow no shapes are left, as they may differ from turn to turn; where its inside does
    not fit the sizes at hand (a branch that is never taken), its results have none. Only ranks stay at
    what the body of a Scan makes: without them ONNX Runtime does not run it.
    Raises IngotError for a node whose inputs or attributes do not fit its op.
    """
    shape_rules.install()
    install_rules()
    declared = {value: _numbers(value.shape) for graph in model.graph.subgraphs() for value in graph.inputs}
    scanned = {value: value.shape for value in _scanned(model)}
    try:
        with quiet("onnx_shape_inference"):
            _infer(model)
    except IngotError:  # a plugin's rule
        raise
    except (ShapeInferenceError, OpUsageError) as error:
        raise IngotError(f"its shape cannot be inferred: {first_line(error)}", node=_at(error)) from None
    except Exception as error:  # rules index into inputs and attributes that a damaged model lacks
        raise IngotError(f"shapes cannot be inferred: {type(error).__name__}: {error}") from None
    finally:
        made = {value: shape if value.shape is None else value.shape for value, shape in scanned.items()}
        for graph in model.graph.subgraphs():
            for node in graph:
                _forget_outputs(node)
        for value, shape in made.items():
            if isinstance(value.type, ir.TensorType):
                value.shape = None if shape is None else ir.Shape([None] * len(shape))
        for value, shape in declared.items():
            if isinstance(value.type, ir.TensorType):
                value.shape = shape


def _scanned(model: ir.Model) -> list[ir.Value]:
    """What nodes in the bodies of Scans make as results of a turn."""
    scans = (node for node in model.graph.all_nodes() if node.op_type == "Scan" and node.domain == "")
    bodies = (node.attributes["body"].as_graph() for node in scans if "body" in node.attributes)
    return [value for body in bodies for value in body.outputs if value.producer() is not None]


def _infer(model: ir.Model) -> None:
    """Runs the library, without the control flow inside which it finds contradictions."""
    hidden: list[tuple[ir.Node, dict[str, ir.Attr]]] = []
    try:
        while True:
            _forget(model)
            try:
                infer_symbolic_shapes(model)
                return
            except (ShapeInferenceError, OpUsageError) as error:
                name = _at(error)
                holder = next((n for n in model.graph if _holds(n, name)), None)
                if holder is None:
                    raise
                hidden.append((holder, dict(holder.attributes)))
                holder.attributes.clear()
                holder.domain = _HIDDEN
                keep_promise(holder)
    finally:
        for node, attributes in hidden:
            node.attributes.update(attributes)
            node.domain = ""


def _at(error: ShapeInferenceError | OpUsageError) -> str:
    """The name of the node that an error is about."""
    name = error.node_name if isinstance(error, ShapeInferenceError) else error.node.name
    return name or ""


def _holds(node: ir.Node, name: str) -> bool:
    """Whether a node called ``name`` is inside a graph of ``node``."""
    graphs = (a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH)
    return node.domain == "" and any(inner.name == name for graph in graphs for inner in graph.all_nodes())


def infer_noting_outputs(model: ir.Model) -> list[str]:
    """``infer_shapes``, with notes about a failure and about declared output shapes that are wrong.

    Where nothing is inferred for an output, the numbers among its declared dimensions stay.
    """
    declared = {str(value.name): value.shape for value in model.graph.outputs}
    notes = []
    try:
        infer_shapes(model)
    except IngotError as error:
        notes.append(f"no shapes: {error}")
    for value in model.graph.outputs:
        old = declared[str(value.name)]
        if old is None or not isinstance(value.type, ir.TensorType):
            continue
        if value.shape is None:
            value.shape = _numbers(old)
        elif not _agree(old, value.shape):
            notes.append(f"output {value.name!r} is declared as {old}, but its shape is {value.shape}")
    return notes


def without_shape(model: ir.Model) -> set[str]:
    """Names of the values of the main graph whose type or shape is not known."""
    values = (value for node in model.graph for value in node.outputs)
    return {value.name for value in values if value.name and (value.shape is None or value.dtype is None)}


def _forget(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        _forget_outputs(node)
        for graph in node.attributes.values():
            if graph.type == ir.AttributeType.GRAPH:
                # The turn count and the condition of a loop are scalars; the rest comes from outside.
                for value in graph.as_graph().inputs[2 if node.op_type == "Loop" else 0 :]:
                    if value.type is None or isinstance(value.type, ir.TensorType):
                        value.shape = None


def _forget_outputs(node: ir.Node) -> None:
    for value in node.outputs:
        value.const_value = None
        value.metadata_props.pop(SYM_DATA_KEY, None)
        if node.domain == "" and (value.type is None or isinstance(value.type, ir.TensorType)):
            value.shape = None
            if value.dtype == ir.DataType.UNDEFINED:  # files declare that, too
                value.type = None


def _numbers(shape: ir.Shape | None) -> ir.Shape | None:
    """The rank and the known sizes of a shape."""
    return None if shape is None else ir.Shape([d if isinstance(d, int) and d >= 0 else None for d in shape])


def _agree(declared: ir.Shape, found: ir.Shape) -> bool:
    if len(declared) != len(found):
        return False
    pairs = zip(declared, found, strict=True)
    return all(not isinstance(a, int) or not isinstance(b, int) or a < 0 or a == b for a, b in pairs)
