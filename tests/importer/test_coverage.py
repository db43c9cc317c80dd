"""The coverage report counts every node and names what has no device kernel."""

from __future__ import annotations

from support.onnx_text import model

from ingot.graph.region import Kind
from ingot.importer.coverage import OpCount, coverage
from ingot.importer.load import import_model

TEXT = """
g (float[2,2] x, bool c) => (float[2,2] y) {
    k = Constant <value = float[1] {1}> ()
    a = Add (x, k)
    b = MatMul (a, x)
    d = com.acme.Magic (b)
    e = Add (d, k)
    y = If (c) <
        then_branch = t () => (float[2,2] r) { r = Add (e, e) },
        else_branch = s () => (float[2,2] q) { q = Softmax (e) }
    >
}
"""


def test_every_op_is_counted_once() -> None:
    found = coverage(import_model(model(TEXT, extra=', "com.acme" : 1')).model)
    assert {(c.domain, c.op): c.count for c in found} == {
        ("", "Add"): 3,
        ("", "MatMul"): 1,
        ("com.acme", "Magic"): 1,
        ("", "If"): 1,
        ("", "Softmax"): 1,
    }


def test_ops_without_a_kernel_come_first_with_a_reason() -> None:
    found = coverage(import_model(model(TEXT, extra=', "com.acme" : 1')).model)
    assert [c.op for c in found[:2]] == ["If", "Magic"]
    assert all((c.reason is not None) == (c.kind is Kind.HOST) for c in found)
    assert str(found[1].reason) == "com.acme.Magic has no device kernel"
    assert found[2] == OpCount("Add", "", 3, Kind.MAP, None)
    assert next(c for c in found if c.op == "MatMul").kind is Kind.GEMM
