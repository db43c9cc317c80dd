"""The plugin in docs/plugins.md works as it stands there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import helper
from support.host_cuda import needs_compiler
from support.plugin_models import model_of, on_host, plugin_region, variants
from support.snippets import block_with, run_block

import ingot
from ingot.builder.api import build_engine
from ingot.options import BuildOptions
from ingot.plugins.api import In, Kernels, Number, Out, Plugin, TritonLaunch, Work
from ingot.plugins.registry import using
from ingot.plugins.triton import source_of

MODEL = model_of([helper.make_node("Cube", ["x"], ["y"], domain="my.ops")], {"x": [5, 7]}, ["y"])


@needs_compiler
def test_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = run_block(block_with("docs/plugins.md", "CUBE = Plugin"), {})["CUBE"]
    assert isinstance(cube, Plugin)
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    made = ingot.build(MODEL, target="cpu", plugins=[cube]).context().run({"x": x})["y"]
    np.testing.assert_array_equal(made, x**3)
    with using([cube]):
        region, bindings = plugin_region(MODEL)
        for variant in variants(region, bindings):
            np.testing.assert_allclose(on_host(region, variant, [x], bindings)[0], x**3, rtol=1e-6)


def _cube(x, y, n, block) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)  # noqa: F821
    v = tl.load(x + i, mask=i < n)  # noqa: F821
    tl.store(y + i, v * v * v, mask=i < n)  # noqa: F821


def test_a_triton_function_becomes_a_kernel() -> None:
    text = source_of(_cube).replace("block)", "block: tl.constexpr)", 1)

    def work(node, tactic) -> Work:
        parameters = (("x", In(0)), ("y", Out(0)), ("n", Number(35, 4)))
        return Work((TritonLaunch(text, "_cube", parameters, (1, 1, 1), {"block": 64}, num_warps=2),))

    def reference(attrs: object, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0] ** 3]

    plugin = Plugin("my.ops", "Cube", "1", lambda n: [n.input(0)], reference, (Kernels("triton", work),))
    with using([plugin]):
        engine = build_engine(MODEL, BuildOptions("sm_90", opt_level=0))
    (step,) = engine.plan.steps
    assert step.kind == "kernel" and step.block == 64
