"""The README's examples run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.snippets import ROOT, block_with, python_blocks, run_block

import ingot


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small convolution in ``model.onnx``, and its folder the current one."""
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    monkeypatch.chdir(tmp_path)
    return path


def test_building_saving_loading_and_running(model: Path) -> None:
    names: dict[str, object] = {}
    run_block(block_with("README.md", "engine.save"), names)
    assert (model.parent / "model.ingot").is_file()
    outputs = names["outputs"]
    assert isinstance(outputs, dict)
    assert outputs["y"].shape == (1, 8, 1, 1)


def test_onnx_runtimes_session(model: Path) -> None:
    names: dict[str, object] = {}
    run_block(block_with("README.md", "InferenceSession"), names)
    assert isinstance(names["y"], np.ndarray)
    assert (names["y"] == 0).all()


@pytest.mark.gpu
def test_pytorch_tensors(model: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    engine = ingot.build(model, target="cuda", shapes={"x": [1, 3, 32, 32]}, opt_level=1)
    names: dict[str, object] = {"context": engine.context()}
    run_block(block_with("README.md", "import torch"), names)
    torch.cuda.synchronize()
    assert torch.equal(names["out"], names["y"])


def test_a_range_of_shapes(model: Path) -> None:
    engine = ingot.build(model, target="cpu", shapes={"x": [(1, 8, 32), 3, 32, 32]}, opt_level=1)
    assert list(engine.profile.values()) == [(1, 8, 32)]
    assert engine.context().run({"x": np.zeros((5, 3, 32, 32), np.float32)})["y"].shape == (5, 8, 1, 1)


def test_every_example_is_covered() -> None:
    assert len(python_blocks("README.md")) == 3


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
