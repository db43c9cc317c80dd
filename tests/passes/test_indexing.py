"""Ops that pick by index, transforms, optimiser steps and sequences in terms of others, against their own results."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from support.rewrites import Net, kinds, rewritten

from ingot.errors import No
from ingot.graph.edit import Editor
from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.passes import fourier, indexing
from ingot.passes.decompose import decompose
from ingot.passes.fold import fold
from ingot.passes.functions import expand_functions
from ingot.passes.sequences import resolve_sequences


def on_device(net: Net, rtol: float = 1e-5) -> None:
    model, _ = rewritten(net, decompose, rtol=rtol)
    assert all(kind_of(node.op_type, node.domain) is not Kind.HOST for node in model.graph), kinds(model)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_hardmax(axis: int) -> None:
    net = Net()
    net.output(net.op("Hardmax", net.input("x", [3, 4, 5]), axis=axis))
    on_device(net)


def test_positions_that_no_constant_holds_stay_on_the_host() -> None:
    net = Net()
    net.output(net.op("Hardmax", net.input("x", [2, 1 << 40]), axis=1))
    editor = Editor(ir.from_proto(net.proto()))
    (node,) = editor.model.graph
    answer = indexing.hardmax(editor, node)
    assert isinstance(answer, No) and "an axis of it" in answer.reason


@pytest.mark.parametrize("time", [0, 1])
def test_reverse_sequence(time: int) -> None:
    net = Net()
    lengths = net.const([1, 4, 2, 3], "int64")
    net.output(net.op("ReverseSequence", net.input("x", [4, 4, 2]), lengths, time_axis=time, batch_axis=1 - time))
    on_device(net)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    net = Net(opset=24)
    starts = net.const([1, 3 if mode == "circular" else 2], "int64")
    cache, update = net.input("x", [2, 3, 4, 5]), net.input("u", [2, 3, 2, 5])
    net.output(net.op("TensorScatter", cache, update, starts, mode=mode))
    on_device(net)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_compress(axis: int | None) -> None:
    net = Net()
    attributes = {} if axis is None else {"axis": axis}
    net.output(net.op("Compress", net.input("x", [3, 4]), net.const([True, False, True], "bool"), **attributes))
    on_device(net)


@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_running_products(attributes: dict[str, int]) -> None:
    net = Net(opset=26)
    net.output(net.op("CumProd", net.input("x", [3, 4, 2]), net.const(1, "int64"), **attributes))
    on_device(net)


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
def test_a_vector_has_but_one_axis_to_run_along(op: str) -> None:
    net = Net(opset=26)
    axis = net.op("Mul", net.input("axis", [], "int64"), net.const(0, "int64"))
    net.output(net.op(op, net.input("x", [7]), axis))
    model, _ = rewritten(net, decompose)
    assert op not in kinds(model)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_determinant(rows: int) -> None:
    net = Net()
    net.output(net.op("Det", net.input("x", [4, 2, rows, rows])))
    on_device(net, rtol=1e-4)


@pytest.mark.parametrize(
    ("image", "attributes"),
    [([5, 5], {}), ([6, 5], {"pads": [1, 0, 1, 1]}), ([5, 7], {"strides": [2, 2]}), ([6, 6], {"dilations": [1, 2]})],
)
def test_columns_to_image(image: list[int], attributes: dict[str, Any]) -> None:
    pads = attributes.get("pads", [0] * 4)
    counts = [
        (size + pads[i] + pads[i + 2] - attributes.get("dilations", [1, 1])[i] * (k - 1) - 1)
        // attributes.get("strides", [1, 1])[i] + 1
        for i, (size, k) in enumerate(zip(image, (2, 3), strict=True))
    ]  # fmt: skip
    net = Net()
    x = net.input("x", [2, 3 * 6, counts[0] * counts[1]])
    net.output(net.op("Col2Im", x, net.const(image, "int64"), net.const([2, 3], "int64"), **attributes))
    on_device(net)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("attributes", [{}, {"inverse": 1}, {"onesided": 1}])
def test_dft(parts: int, attributes: dict[str, int]) -> None:
    if parts == 2 and "onesided" in attributes:
        pytest.skip("a one-sided transform is of real signals")
    for length in (None, 5, 9):
        net = Net(opset=20)
        size = "" if length is None else net.const(length, "int64")
        net.output(net.op("DFT", net.input("x", [2, 7, 3, parts]), size, net.const(1, "int64"), **attributes))
        on_device(net, rtol=1e-4)


@pytest.mark.parametrize(("length", "parts", "reason"), [(1 << 40, 1, "is a matrix of"), (8, 3, "last axis")])
@pytest.mark.parametrize("op", ["DFT", "STFT"])
def test_transforms_that_are_no_small_matrix_stay_on_the_host(op: str, length: int, parts: int, reason: str) -> None:
    """Lengths in damaged files are of any size: the matrix is not made to be measured."""
    net = Net(opset=17)
    x = net.input("x", [1, length, parts])
    made = net.op("DFT", x) if op == "DFT" else net.op("STFT", x, net.const(1, "int64"), "", net.const(length, "int64"))
    net.output(made)
    editor = Editor(ir.from_proto(net.proto()))
    (node,) = (node for node in editor.model.graph if node.op_type == op)
    answer = {"DFT": fourier.dft, "STFT": fourier.stft}[op](editor, node)
    assert isinstance(answer, No) and reason in answer.reason


@pytest.mark.parametrize(("step", "reason"), [(0, "a step of 0"), (-2, "a step of -2"), (1, "places than a constant")])
def test_frames_that_cannot_be_made_stay_on_the_host(step: int, reason: str) -> None:
    net = Net(opset=17)
    x = net.input("x", [1, 1 << 40, 1])
    net.output(net.op("STFT", x, net.const(step, "int64"), "", net.const(16, "int64")))
    editor = Editor(ir.from_proto(net.proto()))
    (node,) = (node for node in editor.model.graph if node.op_type == "STFT")
    answer = fourier.stft(editor, node)
    assert isinstance(answer, No) and reason in answer.reason


@pytest.mark.parametrize("length", [8, 9])
def test_one_sided_inverse_dft_is_real(length: int) -> None:
    """Not against ONNX Runtime, which lacks it."""
    signal = np.random.default_rng(0).standard_normal(length)
    spectrum = np.fft.rfft(signal)
    both = np.stack([spectrum.real, spectrum.imag], -1).reshape(-1)
    back = both @ fourier._matrix(len(spectrum), length, 2, inverse=True, onesided=True)
    np.testing.assert_allclose(back, signal, atol=1e-12)


@pytest.mark.parametrize("window", [False, True])
def test_stft(window: bool) -> None:
    net = Net(opset=17)
    x = net.input("x", [2, 40, 1])
    inputs = [net.const(np.hanning(8))] if window else [""]
    net.output(net.op("STFT", x, net.const(3, "int64"), *inputs, net.const(8, "int64"), onesided=1))
    on_device(net, rtol=1e-4)


@pytest.mark.parametrize("op", ["Adagrad", "Adam", "Momentum"])
@pytest.mark.parametrize("step", [0, 3])
def test_optimiser_steps(op: str, step: int) -> None:
    net = Net()
    count = 4 if op == "Adam" else 3
    tensors = [net.input(f"t{i}", [2, 3]) for i in range(2 * (count - 1))]
    squares = [net.op("Abs", net.input(f"h{i}", [2, 3])) for i in range(2)]
    attributes: dict[str, Any] = {"norm_coefficient": 0.01}
    if op == "Momentum":
        attributes |= {"alpha": 0.9, "beta": 0.7, "mode": "nesterov" if step else "standard"}
    inputs = [net.const(0.1), net.const(step, "int64"), *tensors, *squares]
    made = net.op(op, *inputs, domain="ai.onnx.preview.training", outputs=2 * (count - 1), **attributes)
    net.output(*made)
    on_device(net)


def test_a_mask_that_keeps_everything() -> None:
    net = Net()
    y, mask = net.op("Dropout", net.input("x", ["N", 3]), outputs=2)
    net.output(y).output(mask, dtype="bool")
    model, _ = rewritten(net, decompose)
    assert "Dropout" not in kinds(model)


def test_classic_ops() -> None:
    net = Net()
    x = net.input("x", [3, 4])
    net.output(net.op("Binarizer", x, domain="ai.onnx.ml", threshold=0.2))
    net.output(net.op("ArrayFeatureExtractor", x, net.const([2, 0], "int64"), domain="ai.onnx.ml"))
    on_device(net)


def test_functions_become_their_bodies() -> None:
    net = Net(opset=23)
    x = net.input("x", [2, 5, 3, 4])
    net.output(net.op("MeanVarianceNormalization", x, axes=[0, 2, 3]))
    net.output(net.op("SoftmaxCrossEntropyLoss", net.input("s", [3, 4]), net.const([1, 0, 3], "int64")))
    cos, sin = net.normal(10, 2), net.normal(10, 2)
    places = net.const(np.arange(10).reshape(2, 5)[:, :3], "int64")
    net.output(net.op("RotaryEmbedding", net.input("q", [2, 4, 3, 4]), cos, sin, places))
    model, notes = rewritten(net, expand_functions)
    assert len(notes) == 4  # the loss holds a NegativeLogLikelihoodLoss
    names = {"RotaryEmbedding", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"}
    assert not names & kinds(model).keys()
    assert not model.functions


@pytest.mark.parametrize("case", ["cache", "softcap", "window"])
def test_attention_in_forms_without_a_kernel(case: str) -> None:
    net = Net(opset=25 if case == "window" else 23)
    q, k, v = (net.input(name, [2, 3, length, 8]) for name, length in (("q", 4), ("k", 5), ("v", 5)))
    if case == "cache":
        past = [net.input(name, [2, 3, 2, 8]) for name in ("pk", "pv")]
        net.output(*net.op("Attention", q, k, v, "", *past, outputs=3))
    elif case == "window":
        net.output(net.op("Attention", q, k, v, left_window_size=2))
    else:
        net.output(net.op("Attention", q, k, v, softcap=2.0))
    model, notes = rewritten(net, expand_functions)
    assert notes == ["1 Attention as ONNX defines it"] and "Attention" not in kinds(model)


def test_plain_attention_keeps_its_kernel() -> None:
    net = Net(opset=23)
    net.output(net.op("Attention", *(net.input(name, [2, 3, 4, 8]) for name in "qkv")))
    model, notes = rewritten(net, expand_functions)
    assert not notes and kinds(model) == {"Attention": 1}


def test_sequences_of_known_elements_go() -> None:
    net = Net()
    x, y = net.input("x", [2, 3]), net.input("y", [2, 3])
    made = net.op("SequenceConstruct", x, y, x)
    made = net.op("SequenceInsert", made, y, net.const(1, "int64"))
    made = net.op("SequenceErase", made, net.const(-1, "int64"))
    net.output(net.op("SequenceAt", made, net.const(1, "int64")))
    net.output(net.op("ConcatFromSequence", made, axis=0, new_axis=1))
    net.output(net.op("SequenceLength", made), dtype="int64")
    split = net.op("SplitToSequence", net.input("z", [5, 4]), net.const([2, 3], "int64"))
    net.output(net.op("SequenceAt", split, net.const(-1, "int64")))
    model, notes = rewritten(net, resolve_sequences)
    assert notes == ["4 reads of sequences are reads of their elements"]
    assert not any("Sequence" in op for op in kinds(model))


def test_a_position_that_is_data_keeps_the_sequence() -> None:
    net = Net()
    x = net.input("x", [2, 3])
    made = net.op("SequenceConstruct", x, net.op("Neg", x))
    net.output(net.op("SequenceAt", made, net.input("n", [], "int64")))
    model = net.model()
    assert not resolve_sequences(model) and kinds(model)["SequenceAt"] == kinds(model)["SequenceConstruct"] == 1


def test_an_input_without_elements_is_a_constant() -> None:
    net = Net()
    net.output(net.op("ReduceL1", net.input("x", [2, 3]), net.input("axes", [0], "int64")))
    model, _ = rewritten(net, fold)
    (node,) = (node for node in model.graph if node.op_type == "ReduceL1")
    assert node.inputs[1] is not None and node.inputs[1].const_value is not None


def test_casts_keep_their_attributes() -> None:
    """The library's folding of CastLike forgets that it does not saturate."""
    net = Net(opset=24)
    net.weights.append(numpy_helper.from_array(np.zeros(1, ml_dtypes.float8_e5m2), "like"))
    net.output(net.op("Cast", net.op("CastLike", net.input("x", [3]), "like", saturate=0), to=1))
    model, _ = rewritten(net, fold)
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert any(node.attributes.get_int("saturate", 1) == 0 for node in casts) and "CastLike" not in kinds(model)
