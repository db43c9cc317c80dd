"""GridSample, RoiAlign and DeformConv in terms of gathers, against ONNX Runtime (or ONNX's evaluator)."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.errors import No
from ingot.graph.edit import Editor
from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.passes.decompose import decompose
from ingot.passes.sampling import grid_sample


def on_device(net: Net, rtol: float = 1e-4) -> None:
    model, notes = rewritten(net, decompose, rtol=rtol)
    assert all(kind_of(node.op_type, node.domain) is not Kind.HOST for node in model.graph), kinds(model)
    assert "in terms of other ops" in notes[0]


@pytest.mark.parametrize(
    ("mode", "padding", "corners"),
    [*product(["linear", "nearest"], ["zeros", "border", "reflection"], [0, 1]), ("cubic", "zeros", 0),
     ("cubic", "border", 1), ("cubic", "reflection", 0), ("cubic", "reflection", 1)],
)  # fmt: skip
def test_grid_sample(mode: str, padding: str, corners: int) -> None:
    net = Net()
    x = net.input("x", [2, 3, 5, 4])
    grid = net.const(np.random.default_rng(3).uniform(-1.6, 1.6, (2, 6, 7, 2)))
    net.output(net.op("GridSample", x, grid, mode=mode, padding_mode=padding, align_corners=corners))
    on_device(net)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_of_volumes(mode: str) -> None:
    net = Net()
    grid = net.const(np.random.default_rng(3).uniform(-1.3, 1.3, (1, 2, 3, 4, 3)))
    net.output(net.op("GridSample", net.input("x", [1, 2, 3, 4, 5]), grid, mode=mode))
    on_device(net)


def test_grid_sample_of_unknown_size_stays() -> None:
    net = Net()
    net.output(net.op("GridSample", net.input("x", [1, 2, "h", 4]), net.normal(1, 3, 4, 2)))
    model, notes = rewritten(net, decompose)
    assert kinds(model) == {"GridSample": 1} and "sizes are not known" in notes[0]


def test_grid_sample_of_more_images_than_memory_holds_stays() -> None:
    many = 1 << 40
    x, grid = (ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT)) for n, s in (
        ("x", [many, 1, 1, 1]), ("grid", [many, 1, 1, 2]),
    ))  # fmt: skip
    node = ir.Node("", "GridSample", [x, grid], name="sample")
    graph = ir.Graph([x, grid], [node.outputs[0]], nodes=[node], opset_imports={"": 20})
    answer = grid_sample(Editor(ir.Model(graph, ir_version=10)), node)
    assert isinstance(answer, No) and "images at a time" in answer.reason


@pytest.mark.parametrize(("mode", "transformation"), list(product(["avg", "max"], ["half_pixel", "output_half_pixel"])))
def test_roi_align(mode: str, transformation: str) -> None:
    net = Net(opset=16)
    boxes = [[0, 0, 9, 9], [-2, 1.5, 4, 20], [3.2, 2, 3.4, 2.5], [1, 1, 6, 4]]
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation, "spatial_scale": 0.6}
    net.output(
        net.op(
            "RoiAlign", net.input("x", [2, 3, 7, 8]), net.const(boxes), net.const([0, 1, 1, 0], "int64"),
            output_height=3, output_width=2, sampling_ratio=2, **attributes,
        )
    )  # fmt: skip
    on_device(net)


@pytest.mark.parametrize("case", ["plain", "groups", "mask"])
def test_deform_conv(case: str) -> None:
    net = Net()
    shifts, group = (2, 2) if case == "groups" else (1, 1)
    extra = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 0, 1]} if case == "mask" else {}
    oh, ow = (3, 4) if case == "mask" else (4, 3)
    offset = net.normal(2, shifts * 6 * 2, oh, ow)
    inputs = [net.input("x", [2, 4, 5, 5]), net.normal(4, 4 // group, 2, 3), offset, net.normal(4)]
    if case == "mask":
        inputs.append(net.const(np.random.default_rng(0).random((2, 6, oh, ow))))
    net.output(net.op("DeformConv", *inputs, group=group, offset_group=shifts, kernel_shape=[2, 3], **extra))
    on_device(net)
