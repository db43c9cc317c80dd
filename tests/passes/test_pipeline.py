"""The whole pipeline: results stay, on architectures and on real models."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.real_models import real_model
from support.rewrites import Net, assert_same, kinds, run_ort

from ingot.importer.load import import_model
from ingot.passes.pipeline import PASSES, canonicalise
from ingot.zoo import architectures, fetch
from ingot.zoo.inputs import sample_inputs

TINY = [name for name in architectures.names() if name.endswith("_tiny")]
EXPECTED = {
    "resnet_tiny": {"Conv": 12, "Relu": 10, "Add": 3, "MaxPool": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    "vit_tiny": {"Attention": 2, "Gelu": 2, "Split": 2, "MatMul": 8, "LayerNormalization": 5},
    "bert_tiny": {"Attention": 2, "Gelu": 2, "Split": 2, "MatMul": 8, "LayerNormalization": 5, "Tanh": 1, "Gather": 1},
}
"""Ops that must be there, so often, after the pipeline."""


@pytest.mark.parametrize("name", TINY)
def test_architectures_keep_their_results(name: str) -> None:
    proto = architectures.build(name)
    imported = import_model(proto, any_size=True)
    feeds = architectures.sample_inputs(proto, 2)
    before = run_ort(proto, feeds)
    full = canonicalise(imported.model, fp16=False)
    assert_same(before, run_ort(ir.to_proto(full.model), feeds), 1e-4)
    half = canonicalise(imported.model, fp16=True)
    assert_same(before, run_ort(ir.to_proto(half.model), feeds), 2e-2)
    assert "BatchNormalization" not in kinds(full.model)
    found = kinds(full.model)
    assert {op: found[op] for op in EXPECTED.get(name, {})} == EXPECTED.get(name, {})


@pytest.mark.models
@pytest.mark.parametrize("name", fetch.names())
def test_real_models_keep_their_results(name: str) -> None:
    path = real_model(name)
    imported = import_model(path, any_size=True)
    feeds = sample_inputs(name)
    before = run_ort(onnx.load(path), feeds)
    # A model in 16 bits is rounded elsewhere after a rewrite.
    rtol = 1e-2 if name.startswith("csmask") else 1e-4
    full = canonicalise(imported.model, fp16=False)
    _close(before, run_ort(ir.to_proto(full.model), feeds), rtol)
    half = canonicalise(imported.model, fp16=True)
    after = run_ort(ir.to_proto(half.model), feeds)
    for output, wanted in before.items():
        # Single pixels at steep edges move more than a rounding of float16; the whole does not.
        assert _distance(after[output], wanted) <= 3e-2, output


def _close(before: dict[str, np.ndarray], after: dict[str, np.ndarray], rtol: float) -> None:
    """Errors relative to the largest element, or to one thousandth where an output is all but zero."""
    for name, wanted in before.items():
        scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-3)
        assert after[name].shape == wanted.shape and after[name].dtype == wanted.dtype
        assert float(np.abs(after[name].astype(np.float64) - wanted).max(initial=0.0)) <= rtol * scale, name


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference over the norm of what is wanted."""
    exact = wanted.astype(np.float64)
    return float(np.linalg.norm(found - exact) / max(float(np.linalg.norm(exact)), 1e-3 * exact.size**0.5))


def test_the_model_that_is_given_stays_as_it_is() -> None:
    proto = architectures.build("bert_tiny")
    model = import_model(proto, any_size=True).model
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    canonicalise(model, fp16=True)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_same_model_gives_the_same_bytes() -> None:
    model = import_model(architectures.build("vit_tiny"), any_size=True).model
    first, second = (canonicalise(model, fp16=True) for _ in range(2))
    assert first.notes == second.notes
    one, two = (ir.to_proto(c.model).SerializeToString(deterministic=True) for c in (first, second))
    assert one == two


def test_every_pass_is_dumped_in_order() -> None:
    seen: list[str] = []
    model = import_model(architectures.build("resnet_tiny"), any_size=True).model
    canonicalise(model, fp16=True, dump=lambda name, _: seen.append(name))
    assert seen == [step.name for step in PASSES] + ["autocast"]
    assert len(set(seen)) == len(seen)


def test_nodes_without_names_get_one() -> None:
    net = Net()
    x = net.input("x", ["N", 3])
    net.output(net.op("Add", net.op("Relu", x), net.op("Exp", x)))
    model = net.model()
    for node in model.graph:
        node.name = ""
    names = [node.name for node in canonicalise(model, fp16=False).model.graph]
    assert all(names) and len(set(names)) == 3


def test_canonicalising_twice_changes_nothing_more() -> None:
    model = import_model(architectures.build("bert_tiny"), any_size=True).model
    once = canonicalise(model, fp16=False).model
    assert kinds(canonicalise(once, fp16=False).model) == kinds(once)
