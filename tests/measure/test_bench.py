"""Benchmarks on the CPU: turns, failing peers, a reference that refuses, and what is asked of the processor."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ingot.builder.api import build_engine
from ingot.errors import IngotError
from ingot.measure import bench as bench_module
from ingot.measure.bench import Case, bench, target_of
from ingot.measure.figures import Budget
from ingot.measure.host import host_flops, model_flops
from ingot.measure.inputs import declared, random_feeds
from ingot.measure.reference import Reference
from ingot.measure.timing import interleaved, repeated
from ingot.options import BuildOptions, parse_shapes
from ingot.zoo import architectures

BUDGET = Budget(warmup=0.0, seconds=0.02, iterations=12)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return architectures.build("resnet_tiny")


@pytest.fixture(scope="module")
def path(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bench") / "e.ingot"
    build_engine(model, BuildOptions("cpu", opt_level=0)).write(made)
    return made


def case(path: Path, reference: Reference | None, shapes: str = "input=2x3x32x32") -> Case:
    return Case("row", "m", path, random_feeds, reference, shapes=parse_shapes([shapes]))


def test_turns_go_there_and_back() -> None:
    calls: list[str] = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, Budget(0.0, 0.0, 12))
    assert len(times["a"]) == len(times["b"]) >= 12
    turns = [calls[2]] + [b for a, b in pairwise(calls[2:]) if a != b]
    assert turns[:6] == ["a", "b", "a", "b", "a", "b"] and len(turns) == 13  # aB bA aB ...: neighbours melt


def test_least_number_of_runs() -> None:
    assert len(repeated(lambda: None, Budget(0.0, 0.0, 7))) == 7


def test_record_of_an_engine(model: onnx.ModelProto, path: Path) -> None:
    record = bench(case(path, Reference(model)), BUDGET, ["onnxruntime"])
    assert record.correct and record.figures is not None and record.engine is not None
    assert record.inputs == {"input": ("float32", [2, 3, 32, 32])}
    assert record.figures.run.samples >= 12 and record.figures.roofline_ms > 0
    assert record.figures.compute is None and record.engine.backend == "onnxruntime"
    assert [peer.variant for peer in record.peers] == ["cpu fp32"] and record.peers[0].outputs


def test_a_peer_that_fails_is_a_result(model: onnx.ModelProto, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken peer\nwith a long story")

    monkeypatch.setattr("ingot.measure.peers.onnxruntime._cpu", broken)
    record = bench(case(path, Reference(model)), BUDGET, ["onnxruntime"])
    assert record.correct and record.peers[0].run is None and record.peers[0].error == "broken peer"


def test_a_reference_that_refuses_is_replaced(path: Path) -> None:
    other = architectures.build("bert_tiny")
    record = bench(case(path, Reference(other)), BUDGET)
    assert record.correct and "own layers (ONNX Runtime fails" in record.reference


def test_shapes_outside_the_engine(path: Path) -> None:
    with pytest.raises(IngotError, match="input"):
        bench(case(path, None, "input=2x3x32x31"), BUDGET)


def test_declared_inputs_and_random_feeds(path: Path) -> None:
    from ingot.engine.file import EngineFile

    plan = EngineFile.read(path).plan
    inputs = declared(plan, parse_shapes(["input=5x3x32x32"]))
    assert inputs == {"input": ("float32", (5, 3, 32, 32))}
    a, b, c = (random_feeds(inputs, seed)["input"] for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c) and a.std() > 0.5
    ids = random_feeds({"i": ("int64", (100,)), "b": ("bool", (100,)), "h": ("float16", (3,))})
    assert set(ids["i"]) == {0, 1} and ids["b"].any() and not ids["b"].all() and ids["h"].dtype == np.float16


def test_operations_of_a_model(model: onnx.ModelProto) -> None:
    one = model_flops(Reference(model), {"input": np.zeros((1, 3, 32, 32), np.float32)})
    four = model_flops(Reference(model), {"input": np.zeros((4, 3, 32, 32), np.float32)})
    assert one > 3e6 and four == 4 * one
    assert model_flops(Reference(b"nonsense"), {}) == 0
    assert 1e8 < host_flops() < 1e15


def test_targets() -> None:
    assert target_of("cpu", None, tf32=False) is None
    found = target_of("sm_90", None, tf32=True)
    assert found is not None and found.cc == 90 and found.tf32
    assert target_of("sm_1", None, tf32=False) is None
    assert bench_module.PEERS == ("onnxruntime", "torch", "torch.compile", "fp16")
