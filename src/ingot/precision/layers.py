"""Which nodes can compute on 8-bit numbers, and what they read."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import Array, constant_of, is_op, operand, readers, shape_of

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
UNARY = frozenset({
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Gelu", "Erf",
    "Softplus", "Swish", "Mish", "PRelu", "Softsign", "Cast", "Identity",
})  # fmt: skip
"""Element by element, from one activation: what follows a layer inside its kernel."""
FIRST = "first layer"
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_EXACT_MOVES = frozenset({
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Identity",
    "DepthToSpace", "SpaceToDepth",
})  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A product of an activation and constant weights."""

    name: str
    """Of its node."""
    node: ir.Node
    x: ir.Value
    """The activation: input ``0``."""
    weight: ir.Value
    axis: int
    """Axis of the weight that counts output channels."""

    @property
    def op(self) -> str:
        """What it is, for reports."""
        if self.node.op_type == "Conv" and self.groups > 1 and self.groups == self.array.shape[0]:
            return "depthwise Conv"
        return self.node.op_type

    @property
    def array(self) -> Array:
        """The weights."""
        found = constant_of(self.weight)
        assert found is not None
        return found

    @property
    def groups(self) -> int:
        """Groups of channels of a convolution."""
        return int(self.node.attributes.get_int("group", 1))

    @property
    def channel_axis(self) -> int:
        """Axis of ``x`` that counts input channels."""
        return 1 if self.node.op_type in ("Conv", "ConvTranspose") else -1


def layers_of(graph: ir.Graph) -> tuple[list[Layer], dict[str, No]]:
    """The layers of ``graph`` in its order, and why other products are none, by node name."""
    found, refused = [], {}
    for node in graph:
        if is_op(node, *PRODUCTS):
            made = layer_of(node)
            if isinstance(made, No):
                refused[str(node.name)] = made
            else:
                found.append(made)
    return found, refused


def known_layer(node: ir.Node) -> Layer:
    """``node``, which is known to be a layer."""
    found = layer_of(node)
    assert not isinstance(found, No), found
    return found


def layer_of(node: ir.Node) -> Layer | No:
    """``node`` as a layer, or why it is none."""
    name = str(node.name)
    x, weight = operand(node, 0), operand(node, 1)
    array = constant_of(weight)
    if x is None or weight is None or array is None:
        left = constant_of(x) is not None
        return No("its weights are the left operand" if left else "both operands are activations", name)
    if constant_of(x) is not None:
        return No("it is constant", name)
    if array.dtype != "float32" or x.dtype != ir.DataType.FLOAT:
        return No(f"its weights are {array.dtype}", name)
    if is_op(node, "Gemm"):
        plain = node.attributes.get_float("alpha", 1.0) == 1.0 == node.attributes.get_float("beta", 1.0)
        if not plain or node.attributes.get_int("transA", False):
            return No("it has factors, or a transposed first operand", name)
        return Layer(name, node, x, weight, 0 if node.attributes.get_int("transB", False) else 1)
    if is_op(node, "MatMul"):
        return Layer(name, node, x, weight, 1) if array.ndim == 2 else No("its weights are a batch of matrices", name)
    pixels = (shape_of(x) or ())[2:]
    if pixels and all(size == 1 for size in pixels):
        return No("its input is a single pixel: 8 bits would save nothing", name)
    return Layer(name, node, x, weight, 0 if is_op(node, "Conv") else 1)


def exact_move(node: ir.Node) -> bool:
    """Whether ``node`` only moves or picks numbers, so that quantizing before it or after it is the same."""
    if is_op(node, "MaxPool"):
        return len([v for v in node.outputs if v.uses()]) == 1 and node.outputs[0].dtype == ir.DataType.FLOAT
    if is_op(node, "Resize"):
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if is_op(node, "Pad"):
        fill = operand(node, 2)
        array = constant_of(fill)
        zero = fill is None or (array is not None and not array.any())
        return zero or node.attributes.get_string("mode", "constant") != "constant"
    return is_op(node, *_EXACT_MOVES)


def averaging_move(node: ir.Node) -> bool:
    """Whether ``node`` mixes neighbours: its results stay in the range, but are rounded once more."""
    return is_op(node, "AveragePool") or (is_op(node, "Resize") and not exact_move(node))


def moved_inputs(node: ir.Node) -> tuple[int, ...]:
    """Positions of the numbers that a move reads; the rest are its parameters."""
    return tuple(range(len(node.inputs))) if is_op(node, "Concat") else (0,)


def first_and_last(graph: ir.Graph) -> dict[str, str]:
    """Layers that read the model's input, or make its output, without another layer between; with the reason."""
    layers, _ = layers_of(graph)
    nodes = {layer.node: layer.name for layer in layers}
    found: dict[str, str] = {}
    for layer in layers:
        if _fed(layer.x):
            found[layer.name] = FIRST
    for layer in layers:
        if not _followed(layer.node, nodes):
            found.setdefault(layer.name, "last layer")
    return found


def _fed(value: ir.Value) -> bool:
    """Whether ``value`` is an input, moved or scaled by constants at most."""
    while not value.is_graph_input():
        node = value.producer()
        if node is None:
            return False
        data = [v for v in node.inputs if v is not None and constant_of(v) is None]
        light = exact_move(node) or is_op(node, "Cast", "Pad") or is_op(node, *_ARITHMETIC)
        if not light or not data or len({v for v in data if v.producer() is not None or v.is_graph_input()}) != 1:
            return False
        value = data[0]
    return True


def _followed(node: ir.Node, layers: dict[ir.Node, str]) -> bool:
    """Whether another layer depends on ``node``."""
    pending, seen = [node], {node}
    while pending:
        for value in pending.pop().outputs:
            for reader in readers(value):
                if reader in layers:
                    return True
                if reader not in seen:
                    seen.add(reader)
                    pending.append(reader)
    return False


def plain_add(node: ir.Node) -> bool:
    """Whether ``node`` adds two activations of one shape: the end of a residual branch."""
    if not is_op(node, "Add") or any(constant_of(v) is not None for v in node.inputs):
        return False
    a, b = (shape_of(v) for v in node.inputs)
    return a is not None and b is not None and len(a) == len(b) >= 3 and node.outputs[0].dtype == ir.DataType.FLOAT


def layer_behind(value: ir.Value | None, layers: dict[ir.Node, str]) -> ir.Node | None:
    """The layer whose kernel makes ``value``: what is computed from its result alone, element by element."""
    node = None if value is None else value.producer()
    if node is None or node in layers:
        return node
    if not (is_op(node, *UNARY) or is_op(node, *_ARITHMETIC)):
        return None
    made = {layer_behind(v, layers) for v in node.inputs if v is not None and constant_of(v) is None}
    return made.pop() if len(made) == 1 else None
