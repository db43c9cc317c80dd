"""Bodies of If, Loop and Scan that do not fit their nodes are refused, with the node's name and what is wrong."""

from __future__ import annotations

import onnx
import pytest

from ingot.errors import IngotError
from ingot.importer.load import import_model

CONTROL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[3,2] x, bool c, int64 n) => (y, z, u, us) {
    y = If (c) <then_branch = a () => (p) { p = Neg (x) }, else_branch = b () => (q) { q = Abs (x) }>
    z = Loop (n, c, x) <body = l (int64 i, bool g, v) => (h, w) { h = Identity (g) w = Sin (v) }>
    u, us = Scan <num_scan_inputs = 1, scan_input_axes = [0], scan_output_directions = [1],
        body = s (k, e) => (m, o) { m = Add (k, e) o = Neg (e) }> (x, x)
}"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("a () => (p) { p", "a () => () { p", "0 inputs and 0 outputs, where it needs 0 and 1"),
        ("b () => (q)", "b (r) => (q)", "1 inputs and 1 outputs, where it needs 0 and 1"),
        ("z = Loop (n, c, x)", "z, zs = Loop (n, c, x)", "3 inputs and 2 outputs, where it needs 3 and 3"),
        ("Loop (n, c, x)", "Loop (n, c, x, x)", "it carries 2 values and has 1 results"),
        (
            "bool g, v) => (h, w) { h = Identity (g) w",
            "bool v) => (h, w) { h = Identity (v) w",
            "2 inputs and 2 outputs, where it needs 3 and 2",
        ),
        ("num_scan_inputs = 1", "num_scan_inputs = 3", "2 inputs, of which it reads 3"),
        ("num_scan_inputs = 1", "num_scan_inputs = 2", "scan_input_axes has 1 numbers instead of 2"),
        ("directions = [1]", "directions = [1, 0]", "scan_output_directions has 2 numbers instead of 1"),
        ("directions = [1]", "directions = [2]", "scan_output_directions has other numbers than 0"),
        ("s (k, e)", "s (k, e, f)", "3 inputs and 2 outputs, where it needs 2 and 2"),
    ],
)
def test_bodies_that_do_not_fit_their_node(old: str, new: str, reason: str) -> None:
    assert CONTROL.count(old) == 1
    import_model(onnx.parser.parse_model(CONTROL))
    with pytest.raises(IngotError, match=reason):
        import_model(onnx.parser.parse_model(CONTROL.replace(old, new)))
