"""Plugins whose Python function submits work to the stream. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from support import tiny
from support.plugin_models import model_of

import ingot
from ingot.builder.api import build_engine
from ingot.errors import IngotError
from ingot.options import BuildOptions, parse_shapes
from ingot.plugins.api import Attribute, AttrType, OnStream, Plugin
from ingot.plugins.registry import using
from ingot.runtime import dlpack
from ingot.runtime.profile import profile
from ingot.runtime.values import step_values
from ingot.simulate.simulator import Simulator

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]
SEEN: list[object] = []


def _rows_reversed(attrs, inputs, outputs, stream) -> None:
    """The first dimension turned around, a copy for each row."""
    from cuda.bindings import driver

    (x,), (y,) = inputs, outputs
    SEEN.append((dict(attrs), x.shape, x.dtype, x.__cuda_array_interface__["data"][0] == x.pointer))
    assert dlpack.view(x, -1).pointer == x.pointer
    size = int(np.prod(x.shape[1:])) * np.dtype(x.dtype).itemsize
    for i in range(x.shape[0]):
        source = x.pointer + size * (x.shape[0] - 1 - i)
        (status,) = driver.cuMemcpyAsync(y.pointer + size * i, source, size, stream)
        assert int(status) == 0


def _fails(attrs, inputs, outputs, stream) -> None:
    raise ValueError("no luck")


REVERSE = Plugin(
    domain="my",
    name="Reverse",
    version="1",
    shapes=lambda node: [node.input(0)],
    reference=lambda attrs, inputs: [inputs[0][::-1]],
    implementations=(OnStream("driver", _rows_reversed),),
    attributes={"note": Attribute(AttrType.STRING, "none")},
)
X = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)


def node(x: str, y: str, name: str = "Reverse") -> object:
    return helper.make_node(name, [x], [y], name=f"{name}_{y}", domain="my")


def chain() -> ingot.Engine:
    """Twice, with a symbolic first dimension, and an output in the middle."""
    model = model_of([node("x", "a"), node("a", "b"), node("b", "y")], {"x": ["N", 4, 2]}, ["a", "y"])
    options = BuildOptions(tiny.target(), opt_level=0, shapes=parse_shapes(["x=1x4x2:3x4x2:6x4x2"]))
    with using([REVERSE]):
        return ingot.Engine(build_engine(model, options))


def test_calls_follow_each_other_on_the_device() -> None:
    engine = chain()
    assert [(step.kind, step.backend) for step in engine.plan.steps] == [("call", "plugin")] * 3
    SEEN.clear()
    context = engine.context()
    for x in (X, X[:2], X + 1):
        made = context.run({"x": x})
        np.testing.assert_array_equal(made["a"], x[::-1])
        np.testing.assert_array_equal(made["y"], x[::-1])
    assert SEEN[0] == ({"note": "none"}, (3, 4, 2), "float32", True)
    assert len(SEEN) == 9


def test_values_and_times_of_its_steps() -> None:
    engine = chain()
    values = dict(step_values(engine.context(), {"x": X}))
    assert len(values) == 3
    assert [time.kind for time in profile(engine.context(), {"x": X})] == ["call"] * 3


def test_the_engine_needs_the_plugin(tmp_path: Path) -> None:
    engine = chain()
    engine.save(tmp_path / "e.ingot")
    with pytest.raises(IngotError, match=r"needs the plugin my\.Reverse, version 1"):
        ingot.load(tmp_path / "e.ingot")
    context = ingot.load(tmp_path / "e.ingot", plugins=[REVERSE]).context()
    np.testing.assert_array_equal(context.run({"x": X})["y"], X[::-1])
    with using([REVERSE]):
        np.testing.assert_array_equal(Simulator(engine.file).run({"x": X})["y"], X[::-1])


def test_what_it_raises_names_the_step() -> None:
    bad = Plugin("my", "Bad", "1", lambda n: [n.input(0)], lambda a, i: [i[0]], (OnStream("python", _fails),))
    with using([bad]):
        engine = ingot.Engine(
            build_engine(model_of([node("x", "y", "Bad")], {"x": [3]}, ["y"]), BuildOptions(tiny.target()))
        )
    with pytest.raises(IngotError, match="Bad_y: the plugin failed: ValueError: no luck"):
        engine.context().run({"x": np.zeros(3, np.float32)})


@pytest.mark.skipif(tiny.FAKE, reason="the stand-in driver runs no compiled kernel")
def test_between_kernels() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["a"]), node("a", "b"), helper.make_node("Neg", ["b"], ["y"])]
    engine = ingot.build(model_of(nodes, {"x": [3, 4, 2]}, ["y"]), target="cuda", plugins=[REVERSE])
    assert [step.kind for step in engine.plan.steps] == ["kernel", "call", "kernel"]
    np.testing.assert_allclose(engine.context().run({"x": X / 9})["y"], -np.exp(X / 9)[::-1], rtol=1e-5)
