"""Constants through inference: the same elements as ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.onnx_text import model, run

from ingot.importer.infer import infer_shapes
from ingot.importer.load import import_model

BODIES = [
    "v = Concat <axis = 0> (a, b)",
    "s = Concat <axis = 0> (a, b) v = Reshape (s, turn)",
    "s = Concat <axis = 0> (a, b) m = Reshape (s, turn) v = Slice (m, minus, least, zero, minus)",
    "s = Concat <axis = 0> (a, b) m = Reshape (s, turn) v = Transpose <perm = [1, 0]> (m)",
    "s = Concat <axis = 0> (a, b) m = Reshape (s, turn) v = Transpose (m)",
    "s = Concat <axis = 0> (a, b) v = Slice (s, one, five)",
    "s = Concat <axis = 0> (a, b) v = Slice (s, five, minus, zero, minus)",
    "s = Concat <axis = 0> (a, b) v = Slice (s, minus, zero, zero, minus)",
    "v = ConstantOfShape <value = int64[1] {7}> (three)",
    "s = Concat <axis = 0> (a, b) v = Cast <to = 6> (s)",
]
WEIGHTS = """int64[2] a = {3, 4}, int64[4] b = {5, 6, 7, 8}, int64[2] turn = {-1, 2}, int64[1] minus = {-1},
    int64[1] least = {-9223372036854775807}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] five = {5},
    int64[1] three = {3}"""


@pytest.mark.parametrize("body", BODIES)
def test_elements_are_those_of_onnxruntime(body: str) -> None:
    kind = "int32" if "Cast" in body else "int64"
    proto = model(f"g (float[1] x) => ({kind}[] v) <{WEIGHTS}> {{ {body} }}")
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    network = ir.from_proto(proto)
    infer_shapes(network)
    found = network.graph.outputs[0].const_value
    assert found is not None
    (wanted,) = run(proto, {"x": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(found.numpy(), wanted)
    assert found.numpy().dtype == wanted.dtype


def test_what_depends_on_data_stays_unknown() -> None:
    proto = model(f"g (int64[2] x) => (int64[N] v) <{WEIGHTS}> {{ v = Concat <axis = 0> (x, a) }}")
    network = ir.from_proto(proto)
    infer_shapes(network)
    assert network.graph.outputs[0].const_value is None


def test_a_padding_that_is_turned_around_as_a_matrix_has_sizes() -> None:
    """As PyTorch exports ``F.pad``."""
    proto = model(
        f"""g (float[1, 2, 8, 8] x) => (float[N, C, H, W] y) <{WEIGHTS}, int64[4] few = {{1, 1, 2, 2}},
        int64[1] four = {{4}}, int64[2] pair = {{-1, 2}}, int64[1] flat = {{-1}}> {{
            zeros = ConstantOfShape <value = int64[1] {{0}}> (four)
            all = Concat <axis = 0> (few, zeros)
            matrix = Reshape (all, pair)
            turned = Slice (matrix, minus, least, zero, minus)
            columns = Transpose <perm = [1, 0]> (turned)
            pads = Reshape (columns, flat)
            y = Pad (x, pads)
        }}"""
    )
    found = import_model(proto).model.graph.outputs[0].shape
    assert found is not None and list(found) == list(run(proto, {"x": np.zeros((1, 2, 8, 8), np.float32)})[0].shape)
