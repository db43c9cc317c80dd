"""What the Values of a model are, between two stages of a build, computed on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ingot.graph.reference import run_model

Array = np.ndarray[Any, Any]


def stage_values(content: bytes, feeds: Mapping[str, Array], names: Sequence[str] = ()) -> dict[str, Array]:
    """The Values ``names`` (the outputs if none) of the serialised model, computed as it is written.

    Raises IngotError when neither ONNX Runtime nor ONNX's evaluator can run it.
    """
    model = _runnable(content)
    outer = [value.name for value in model.graph.output]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outer)
    known = {value.name for value in model.graph.input}
    wanted = list(names) or outer
    arrays = run_model(model, {name: array for name, array in feeds.items() if name in known}, wanted)
    return dict(zip(wanted, arrays, strict=True))


def makers(content: bytes) -> dict[str, str]:
    """The tensors that the nodes of the main graph make, in order, and the op and name of the node of each."""
    graph = onnx.ModelProto.FromString(content).graph
    tensors = {v.name for v in (*graph.value_info, *graph.output) if v.type.HasField("tensor_type")}
    return {made: f"{node.op_type} {node.name}" for node in graph.node for made in node.output if made in tensors}


def _runnable(content: bytes) -> onnx.ModelProto:
    """The model with attention masks spread over the queries, which ONNX Runtime does not do by itself."""
    model = onnx.ModelProto()
    model.ParseFromString(content)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Attention" and not node.domain and len(node.input) > 3 and node.input[3]:
            nodes.extend(_spread_mask(model.graph, node, f"ingot/mask{index}"))
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _spread_mask(graph: onnx.GraphProto, node: onnx.NodeProto, prefix: str) -> list[onnx.NodeProto]:
    """Nodes that make the mask ``[..., queries, keys]`` of one with a single row; ``node`` reads theirs."""
    heads_apart = all(attribute.name != "q_num_heads" for attribute in node.attribute)
    axis = 2 if heads_apart else 1
    one, queries, shape, mask = (f"{prefix}/{part}" for part in ("one", "queries", "shape", "whole"))
    graph.initializer.append(numpy_helper.from_array(np.asarray([1]), one))
    made = [
        helper.make_node("Shape", [node.input[0]], [queries], start=axis, end=axis + 1),
        helper.make_node("Concat", [queries, one], [shape], axis=0),
        helper.make_node("Expand", [node.input[3], shape], [mask]),
    ]
    node.input[3] = mask
    return made
