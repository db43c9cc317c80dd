"""``ingot quantize`` and ``ingot build --int8``: files, reports, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.eight_bit import pictures, residual_net
from typer.testing import CliRunner, Result

from ingot.cli.build import Flags, make
from ingot.cli.main import app
from ingot.cli.quantize import quantization
from ingot.cli.source import open_source
from ingot.engine.file import EngineFile


def ingot(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("quantize")
    onnx.save(residual_net(1).proto(), made / "net.onnx")
    np.savez(made / "data.npz", x=pictures(16))
    return made


def test_quantize_writes_a_model_and_prints_every_layer(folder: Path) -> None:
    out = folder / "net.int8.onnx"
    made = ingot(
        "quantize", folder / "net.onnx", "-o", out, "--calibration", folder / "data.npz", "--json", folder / "r",
        "--target", "cpu",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "4 of 4 layers, 0 given back; 16 calibration samples on CPU" in made.output
    assert "within the budget of 0.005" in made.output and made.output.count("within the budget") >= 4
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(out).graph.node}
    report = json.loads((folder / "r").read_text())
    assert report["precision"] == "int8" and report["calibrated_on"] == "CPU"
    assert {"import", "calibrate", "other"} <= report["cost"]["stages"].keys() and report["cost"]["peak_bytes"] > 2**24
    assert 0 < report["cost"]["stages"]["calibrate"] <= report["cost"]["seconds"]


def test_calibration_is_on_a_gpu_or_the_cpu(folder: Path) -> None:
    words = ["quantize", folder / "net.onnx", "-o", folder / "x.onnx", "--calibration", folder / "data.npz"]
    made = ingot(*words, "--target", "sm_90")
    assert made.exit_code == 1 and "nothing can be calibrated on 'sm_90'" in made.output


def test_rounding_is_passed_on(folder: Path) -> None:
    words = [folder / "net.onnx", "-o", folder / "rounded.onnx", "--calibration", folder / "data.npz"]
    for command in (["quantize"], ["build", "--int8", "--target", "cpu"]):
        made = ingot(*command, *words, "--rounding", "stochastic")
        assert made.exit_code != 0 and "no rounding" in made.output
    made = ingot("quantize", *words, "--rounding", "adaround", "--json", folder / "rounded.json")
    assert made.exit_code == 0, made.output
    tried = [trial["what"] for trial in json.loads((folder / "rounded.json").read_text())["trials"]]
    assert any("round" in what for what in tried)


def test_quantize_beyond_the_budget(folder: Path) -> None:
    words = ["quantize", folder / "net.onnx", "-o", folder / "x.onnx", "--calibration", folder / "data.npz"]
    (folder / "my_cli_metric.py").write_text(
        "calls = []\ndef score(o, l):\n    calls.append(1)\n    return -len(calls)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = ingot(*words, "--metric", "my_cli_metric:score")
    assert made.exit_code == 3 and "BEYOND the budget" in made.output


def test_build_with_int8(folder: Path) -> None:
    out, cache = folder / "net.ingot", folder / "cache.json"
    words = ["build", folder / "net.onnx", "-o", out, "--target", "cpu", "--opt-level", 1, "--int8"]
    made = ingot(*words, "--calibration", folder / "data.npz", "--calibration-cache", cache)
    assert made.exit_code == 0 and "int8: 4 of 4 layers" in made.output
    assert EngineFile.read(out).provenance["quantized"] == "int8"
    assert ingot("compare", out, folder / "net.onnx").exit_code == 0
    made = ingot(*words, "--calibration-cache", cache)
    assert made.exit_code == 0 and "the loss was not measured" in made.output


def test_build_with_the_best_precision(folder: Path) -> None:
    out = folder / "best.ingot"
    made = ingot(
        "build", folder / "net.onnx", "-o", out, "--target", "cpu", "--best", "--calibration", folder / "data.npz"
    )
    assert made.exit_code == 0, made.output
    assert "measured as whole engines" in made.output and made.output.count("Conv") == 3
    assert EngineFile.read(out).provenance["quantized"] == "best"


def test_models_of_the_zoo_bring_samples_for_any_batch_size() -> None:
    eight = quantization(True, False, None, None, "0.5%", "cosine", sampled=True)
    flags = Flags("cpu", shapes=("input=4x3x32x32",), opt_level=0, eight=eight)
    engine, _ = make(open_source("zoo:resnet_tiny"), flags)
    assert engine.plan.inputs[0].shape == [4, 3, 32, 32]
    assert engine.provenance["quantized"] == "int8" and engine.provenance["calibration_samples"] == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8"], "need data to calibrate with"),
        (["--int8", "--fp8", "--calibration", "data.npz"], "--int8 and --fp8 are 2 ways"),
        (["--calibration", "data.npz"], "calibration is for 8-bit layers"),
        (["--best", "--fp8", "--calibration", "data.npz"], "--fp8 and --best are 2 ways"),
        (["--best", "--calibration-cache", "cache.json"], "losses have to be measured"),
        (["--int8", "--calibration", "none"], "no such file or folder"),
    ],
)
def test_wrong_flags(folder: Path, words: list[str], message: str) -> None:
    made = ingot("build", folder / "net.onnx", "-o", folder / "w.ingot", "--target", "cpu", *words)
    assert made.exit_code == 1 and message in made.output
