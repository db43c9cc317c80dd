"""If whose condition is data: both branches become ordinary nodes, and a Where takes the result of one.

That asks for results of one type and shape. Which of the branches really runs is decided later
(``ingot.passes.lazy``): both where that is cheap, else the one that is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from ingot.errors import IngotError, No
from ingot.graph import dtypes
from ingot.graph.control import choose, keep, promise
from ingot.graph.dims import symbols
from ingot.graph.edit import Editor, constant_of, is_op, shape_of
from ingot.graph.region import ANCHORS, Kind
from ingot.importer.infer import infer_shapes
from ingot.passes.data_sizes import decides_sizes
from ingot.passes.inline import Inliner, discard
from ingot.passes.unroll import works, works_on_device
from ingot.passes.writer import Writer

Simplify = Callable[[ir.Model], None]
BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True)
class _Branch:
    """One branch as a model of its own, simplified."""

    model: ir.Model
    captured: tuple[ir.Value, ...]
    """Values of the main graph that are its inputs."""
    wrong: str = ""
    """Why its ops do not fit the shapes at hand, so that it cannot run."""

    @property
    def outputs(self) -> Sequence[ir.Value]:
        return self.model.graph.outputs


def both_branches(editor: Editor, node: ir.Node, simplify: Simplify) -> No | None:
    """Replaces an If by its branches and a Where for each result; No, with the graph as it was, where it stays."""
    branches = [_extract(editor.model, node, name, simplify) for name in BRANCHES]
    sound = [branch for branch in branches if not branch.wrong]
    answer = _unfit(branches, sound)
    if answer is not None:
        return answer
    condition = node.inputs[0]
    assert condition is not None
    made = [
        _inlined(editor, node, branch) if not branch.wrong else _kept(editor, node, position, sound[0])
        for position, branch in enumerate(branches)
    ]
    w = Writer(editor, node)
    scalar = condition if shape_of(condition) == () else w("Reshape", condition, w.ints())
    for old, like, first, second in zip(node.outputs, sound[0].outputs, *made, strict=True):
        new = w("Where", scalar, first, second)
        new.type, new.shape = like.type, ir.Shape(list(like.shape or ()))
        maker = new.producer()
        assert maker is not None
        choose(maker)
        editor.replace(old, new)
    discard(node)
    return None


def _extract(model: ir.Model, node: ir.Node, name: str, simplify: Simplify) -> _Branch:
    """The branch ``name`` as a model, whose inputs are what it reads from outside."""
    graph = node.attributes[name].as_graph()
    outside = _captured(graph)
    inner = {value: _copied(value) for value in outside}
    fed = [value for value in outside if constant_of(value) is None]
    end = ir.node("Identity", [])
    weights = [inner[value] for value in outside if constant_of(value) is not None]
    own = ir.Graph(
        inputs=[inner[value] for value in fed],
        outputs=[],
        nodes=[end],
        initializers=weights,
        opset_imports=dict(model.opset_imports),
        name=str(node.name),
    )
    branch = ir.Model(own, ir_version=model.ir_version)
    results = Inliner(Editor(branch), graph, "branch").copy([], end, inner)
    own.remove(end)
    for position, value in enumerate(results):
        last = ir.node("Identity", [value], name=f"branch/output{position}/node")
        last.outputs[0].name, last.outputs[0].type = f"branch/output{position}", value.type
        own.append(last)
        own.outputs.append(last.outputs[0])
    try:
        infer_shapes(branch)
        simplify(branch)
        infer_shapes(branch)
        wrong = _misfit(own)
    except IngotError as error:
        wrong = error.reason
    return _Branch(branch, tuple(fed), wrong)


def _captured(graph: ir.Graph) -> list[ir.Value]:
    """Values from outside that ``graph`` reads."""
    own = {v for one in (graph, *graph.subgraphs()) for v in (*one.inputs, *one.initializers.values())}
    own |= {value for node in graph.all_nodes() for value in node.outputs}
    read = [value for node in graph.all_nodes() for value in node.inputs]
    read += [value for one in (graph, *graph.subgraphs()) for value in one.outputs]
    return [value for value in dict.fromkeys(read) if value is not None and value not in own]


def _copied(value: ir.Value) -> ir.Value:
    shape = None if value.shape is None else ir.Shape(list(value.shape))
    copy = ir.Value(name=value.name, type=value.type, shape=shape)
    if constant_of(value) is not None:
        copy.const_value = value.const_value
    if SYM_DATA_KEY in value.metadata_props:
        copy.metadata_props[SYM_DATA_KEY] = value.metadata_props[SYM_DATA_KEY]
    return copy


def _misfit(graph: ir.Graph) -> str:
    """What the shape inference does not object to, and no runtime takes."""
    for node in graph:
        if is_op(node, *ANCHORS[Kind.RECURRENT]):
            shape = shape_of(node.inputs[0])
            if shape is not None and len(shape) != 3:
                return f"{node.op_type} reads a tensor of rank {len(shape)}"
    return ""


def _unfit(branches: Sequence[_Branch], sound: Sequence[_Branch]) -> No | None:
    """Why an If stays as it is."""
    if not sound:
        return No(f"neither of its branches fits the shapes at hand: {branches[0].wrong}")
    graphs = [branch.model.graph for branch in sound]
    if any(works(graph) for graph in graphs) and not any(works_on_device(graph) for graph in graphs):
        return No("nothing in its branches has a device kernel")
    for branch in sound:
        telling = next((node for node in branch.model.graph if decides_sizes(node)), None)
        if telling is not None:
            return No(f"a branch holds {telling.op_type}, the size of whose result depends on data")
    for row in zip(*(branch.outputs for branch in sound), strict=True):
        answer = _unlike(row, frozenset(s for b in branches for v in b.captured for s in _symbols(v)))
        if answer is not None:
            return answer
    return None


def _unlike(row: Sequence[ir.Value], known: frozenset[str]) -> No | None:
    """Why no Where can choose between results. ``known``: symbols of what the branches read."""
    kinds = {value.dtype if isinstance(value.type, ir.TensorType) else None for value in row}
    kind = kinds.pop()
    name = None if kind is None else dtypes.any_from_onnx(int(kind))
    if kinds or name is None or not dtypes.on_device(name):
        return No(f"its branches make {' and '.join(sorted({str(v.type) for v in row}))}, which no kernel chooses from")
    shapes = [shape_of(value) for value in row]
    if any(shape is None or None in shape for shape in shapes) or any(_symbols(v) - known for v in row):
        return No("the shape of what its branches make is not known")
    if any(shape != shapes[0] for shape in shapes):
        text = " and ".join(str(list(shape or ())) for shape in shapes)
        return No(f"its branches make different shapes, {text}", fix="make them alike, or split the model")
    return None


def _symbols(value: ir.Value) -> frozenset[str]:
    return frozenset(s for dim in shape_of(value) or () if isinstance(dim, str) for s in symbols(dim))


def _inlined(editor: Editor, node: ir.Node, branch: _Branch) -> list[ir.Value]:
    return Inliner(editor, branch.model.graph, str(node.name)).copy(branch.captured, node)


def _kept(editor: Editor, node: ir.Node, position: int, other: _Branch) -> list[ir.Value]:
    """An If that runs the branch at ``position`` alone, on the host; it fails there, as the model does.

    Its results have the shapes of the other branch's.
    """
    graphs = [_nothing(editor, node), _nothing(editor, node)]
    graphs[position] = Inliner(editor, node.attributes[BRANCHES[position]].as_graph(), str(node.name)).whole()
    attributes = [ir.AttrGraph(name, graph) for name, graph in zip(BRANCHES, graphs, strict=True)]
    outputs = [ir.Value(name=editor.name(f"{old.name}/kept"), type=old.type) for old in node.outputs]
    name = editor.name(f"{node.name}/{BRANCHES[position]}")
    kept = ir.Node("", "If", list(node.inputs), attributes, outputs=outputs, name=name)
    promise(kept, [[dim for dim in shape_of(value) or () if dim is not None] for value in other.outputs])
    keep(kept, No("this branch does not fit the shapes at hand", fix="build for shapes that fit both branches"))
    editor.graph.insert_before(node, kept)
    return outputs


def _nothing(editor: Editor, node: ir.Node) -> ir.Graph:
    """A branch that never runs: empty tensors of the right types."""
    nodes = []
    for old in node.outputs:
        assert old.dtype is not None
        tensor = ir.tensor(np.empty(0, old.dtype.numpy()))
        made = ir.Value(name=editor.name(f"{old.name}/nothing"), type=old.type)
        nodes.append(ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], outputs=[made]))
    return ir.Graph(inputs=[], outputs=[n.outputs[0] for n in nodes], nodes=nodes, name=editor.name("nothing"))
