"""Symbols of different inputs that an op combines become one; different bounds are refused."""

from __future__ import annotations

import pytest
from support.onnx_text import model

from ingot.errors import IngotError
from ingot.graph.lowered import SymbolRange
from ingot.importer.load import Imported, import_model
from ingot.options import Range

N = Range(1, 2, 8)
ADD = "g (float[unk_1,4] x, float[unk_2,4] z) => (float[unk_3,4] y) { y = Add (x, z) }"


def sized(text: str, **ranges: tuple[Range | int, ...]) -> Imported:
    full = {k: tuple(Range(r, r, r) if isinstance(r, int) else r for r in v) for k, v in ranges.items()}
    return import_model(model(text), tuple(full.items()))


def shapes(imported: Imported) -> list[str]:
    return [str(value.shape) for value in (*imported.model.graph.inputs, *imported.model.graph.outputs)]


def test_operands_of_an_addition() -> None:
    imported = sized(ADD, x=(N, 4), z=(N, 4))
    assert shapes(imported) == ["[unk_1,4]"] * 3
    assert imported.ranges == (SymbolRange("unk_1", 1, 2, 8),)
    assert any("unk_2" in note and "unk_1" in note for note in imported.notes)


def test_different_bounds_are_refused() -> None:
    with pytest.raises(IngotError, match=r"Add.*unk_1 and unk_2.*different bounds.*--shapes"):
        sized(ADD, x=(N, 4), z=(Range(1, 2, 9), 4))


def test_one_stays_one() -> None:
    assert shapes(sized(ADD, x=(N, 4), z=(1, 4))) == ["[unk_1,4]", "[1,4]", "[unk_1,4]"]


def test_any_size_unifies_nothing() -> None:
    assert len(import_model(model(ADD), any_size=True).ranges) == 2


@pytest.mark.parametrize(
    "text",
    [
        "g (float[A,4] x, float[B,4] z) => (y) { y = Concat <axis = 1> (x, z) }",
        "g (float[4,A] x, float[B,4] z) => (y) { y = MatMul (x, z) }",
        "g (float[A,4] x, float[B,4] z) => (y) { y = Gemm <transA = 1> (x, z) }",
        "g (float[A,4] x, float[B,4] z) => (y) { a = Relu (x) c = Greater (a, z) y = Where (c, a, z) }",
        "g (float[A,2,4] x, float[B,4,3] z) => (y) { y = MatMul (x, z) }",
    ],
)
def test_other_ops(text: str) -> None:
    graph = model(text).graph
    sizes = {
        v.name: tuple(N if d.dim_param else d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.input
    }
    imported = sized(text, **sizes)
    assert [r.symbol for r in imported.ranges] == ["A"]


def test_axes_that_may_differ_do() -> None:
    text = "g (float[A,4] x, float[B,4] z) => (y) { y = Concat <axis = 0> (x, z) }"
    imported = sized(text, x=(N, 4), z=(N, 4))
    assert [r.symbol for r in imported.ranges] == ["A", "B"]
    assert shapes(imported)[2] == "[A + B,4]"


def test_chains_end_in_one_symbol() -> None:
    text = """g (float[A] x, float[B] z, float[C] w, float[D] v) => (y) {
        a = Add (z, w) b = Mul (x, v) y = Sub (a, b)
    }"""
    imported = sized(text, x=(N,), z=(N,), w=(N,), v=(N,))
    assert len(imported.ranges) == 1 and len(set(shapes(imported))) == 1


def test_scalars_that_are_joined_have_no_dimensions() -> None:
    text = """g (float x, float z) => (y) { y = Concat <axis = 0> (x, z) }"""
    assert sized(text).ranges == ()
