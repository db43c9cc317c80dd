"""The commands from end to end, on tiny models: for the CPU, and cross-built for a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ingot.cli.main import app
from ingot.engine.file import EngineFile
from ingot.zoo import architectures

QUICK = ["--duration", "0.05", "--warmup", "0", "--iterations", "3"]


def ingot(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def good(*words: object) -> str:
    result = ingot(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and engines of them."""
    made = tmp_path_factory.mktemp("cli")
    architectures.save("resnet_tiny", made / "resnet.onnx")
    architectures.save("mobilenet_tiny", made / "other.onnx")
    good("build", made / "resnet.onnx", "-o", made / "cpu.ingot", "--target", "cpu", "--opt-level", 1)
    flags = ["--target", "sm_90", "--opt-level", 1, "--fp16", "--report", made / "report.txt"]
    good("build", made / "resnet.onnx", "-o", made / "gpu.ingot", *flags)
    return made


def test_version() -> None:
    assert good("--version").startswith("ingot ")


def test_help_names_every_command() -> None:
    text = good("--help")
    names = (
        "check",
        "build",
        "quantize",
        "run",
        "bench",
        "inspect",
        "compare",
        "surgeon",
        "simulate",
        "library",
        "zoo",
        "demo",
    )
    for name in names:
        assert name in text


def test_build_says_what_it_made(folder: Path, tmp_path: Path) -> None:
    text = good("build", "zoo:resnet_tiny", "-o", tmp_path / "e.ingot", "--target", "cpu", "--opt-level", 0)
    assert "cpu, 1 layers" in text and "runs on: onnxruntime" in text


def test_report_has_every_layer(folder: Path) -> None:
    report = (folder / "report.txt").read_text()
    assert "tactic: cuda.hopper[" in report and "ops: Conv Add Relu" in report and "note: " in report
    assert report.splitlines()[-1].startswith("took ") and "of host memory" in report.splitlines()[-1]


def test_report_as_json_has_times_and_memory(folder: Path, tmp_path: Path) -> None:
    words = ["build", folder / "resnet.onnx", "-o", tmp_path / "e.ingot", "--target", "sm_90", "--opt-level", 1]
    good(*words, "--fp16", "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    cost = report["cost"]
    assert {"import", "passes", "lower", "tactics", "compile", "plan", "other"} == cost["stages"].keys()
    assert sum(cost["stages"].values()) == pytest.approx(cost["seconds"], abs=0.01) and cost["seconds"] > 0
    assert 2**24 < cost["peak_bytes"] < 2**36 and cost["cpu_seconds"] > 0 and cost["helper_peak_bytes"] >= 0
    assert [layer["kind"] for layer in report["profiles"][""]["layers"]].count("conv") > 5


def test_shapes_reach_the_build(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.ingot"
    shape = "input=1x3x32x32:2x3x32x32:4x3x32x32"
    good("build", folder / "resnet.onnx", "-o", path, "--target", "cpu", "--opt-level", 0, "--shapes", shape)
    profiles = EngineFile.read(path).plan.profiles
    assert [(p.min, p.opt, p.max) for p in profiles] == [(1, 2, 4)]


def test_run_on_random_inputs_is_repeatable(folder: Path, tmp_path: Path) -> None:
    outputs = []
    for seed in (0, 0, 1):
        good("run", folder / "cpu.ingot", "--seed", seed, "--output", tmp_path / "out.npz")
        outputs.append(np.load(tmp_path / "out.npz")["logits"])
    assert np.array_equal(outputs[0], outputs[1]) and not np.array_equal(outputs[0], outputs[2])


def test_run_on_given_inputs(folder: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    x = np.random.default_rng(5).standard_normal((1, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "in.npz", input=x)
    text = good("run", folder / "cpu.ingot", "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert "logits" in text and "1x10" in text
    wanted = ort.InferenceSession(folder / "resnet.onnx").run(None, {"input": x})[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_run_builds_a_model_on_the_spot(folder: Path) -> None:
    assert "logits" in good("run", folder / "resnet.onnx", "--target", "cpu", "--opt-level", 0)


def test_inspect(folder: Path) -> None:
    text = good("inspect", folder / "gpu.ingot")
    for part in ("sm_90", "programmatic edges", "Conv Add Relu", "cuda.hopper[", "float16", "arena:", "fp16: True"):
        assert part in text, part
    assert "arena:" not in good("inspect", folder / "gpu.ingot", "--layers")
    assert "tactic" not in good("inspect", folder / "gpu.ingot", "--arena")


def test_inspect_json(folder: Path, tmp_path: Path) -> None:
    found = json.loads(good("inspect", folder / "gpu.ingot", "--json", "-"))
    assert found["summary"]["target"] == "sm_90" and len(found["layers"]) > 10
    good("inspect", folder / "gpu.ingot", "--json", tmp_path / "i.json")
    assert json.loads((tmp_path / "i.json").read_text()) == found


def test_json_and_report_are_printed_where_no_file_is_named(folder: Path, tmp_path: Path) -> None:
    assert json.loads(good("inspect", folder / "gpu.ingot", "--json"))["summary"]["target"] == "sm_90"
    words = ["build", folder / "resnet.onnx", "--report", "-o", tmp_path / "e.ingot", "--target", "cpu"]
    assert "ops: Model" in good(*words, "--opt-level", 0)


def test_inspect_profiles_the_steps(folder: Path) -> None:
    found = json.loads(good("inspect", folder / "cpu.ingot", "--profile", "--json", "-"))
    assert len(found["profile"]) == 1 and found["profile"][0]["micros"] > 0


def test_inspect_describes_the_engine_at_the_inputs_that_are_profiled(folder: Path, tmp_path: Path) -> None:
    path, shape = tmp_path / "e.ingot", "input=1x3x32x32:2x3x32x32:4x3x32x32"
    good("build", folder / "resnet.onnx", "-o", path, "--target", "cpu", "--opt-level", 0, "--shapes", shape)
    np.savez(tmp_path / "in.npz", input=np.zeros((4, 3, 32, 32), np.float32))
    found = json.loads(good("inspect", path, "--input", tmp_path / "in.npz", "--profile", "--json", "-"))
    assert found["description"]["inputs"][0]["at"] == [4, 3, 32, 32]


def test_compare_every_value_in_the_simulator(folder: Path) -> None:
    words = ("compare", folder / "gpu.ingot", folder / "resnet.onnx", "--simulate", "--values", "all", "--json", "-")
    found = json.loads(good(*words))
    assert found["where"] == "simulator" and len(found["rows"]) >= 14
    assert found["rows"][-1]["difference"]["name"] == "logits"
    assert all(row["difference"]["relative"] < 0.01 for row in found["rows"])


def test_compare_tells_when_results_depart(folder: Path) -> None:
    result = ingot("compare", folder / "gpu.ingot", folder / "resnet.onnx", "--simulate", "--tolerance", "1e-9")
    assert result.exit_code == 1 and "first beyond the tolerance of 1e-09: logits" in result.stdout


def test_compare_on_the_cpu(folder: Path) -> None:
    assert "all within" in good("compare", folder / "cpu.ingot", folder / "resnet.onnx")


def test_compare_refuses_another_model(folder: Path) -> None:
    result = ingot("compare", folder / "gpu.ingot", folder / "other.onnx", "--simulate")
    assert result.exit_code == 1 and "another model" in result.stderr


def test_simulate(folder: Path) -> None:
    text = good("simulate", folder / "gpu.ingot", "--model", folder / "resnet.onnx", "--orders", 3)
    assert "in 3 orders" in text and "within the tolerance of 0.03" in text
    assert "no race" in good("simulate", folder / "gpu.ingot")


def test_bench_on_the_cpu(folder: Path, tmp_path: Path) -> None:
    record = tmp_path / "r.json"
    words = ["bench", folder / "cpu.ingot", "--model", folder / "resnet.onnx", "--against", "onnxruntime,torch"]
    text = good(*words, "--json", record, *QUICK)
    assert "throughput" in text and "correct within 0.001" in text and "cpu fp32" in text
    found = json.loads(record.read_text())
    assert found["figures"]["run"]["samples"] >= 3 and found["outputs"][0]["relative"] < 1e-4
    assert [peer["name"] for peer in found["peers"]] == ["onnxruntime", "torch"]
    assert found["peers"][0]["ratio"] > 0 and found["peers"][1]["error"]
    assert found["environment"]["cores"] >= 1 and len(found["model_sha256"]) == 64


def test_bench_on_given_inputs(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", input=np.full((1, 3, 32, 32), 0.5, np.float32))
    words = ["bench", folder / "cpu.ingot", "--model", folder / "resnet.onnx", "--input", tmp_path / "in.npz"]
    given = json.loads(good(*words, "--json", *QUICK))
    random = json.loads(good(*words[:4], "--json", *QUICK))
    assert given["outputs"][0]["scale"] != random["outputs"][0]["scale"]
    assert given["figures"]["roofline_ms"] > 0


def test_bench_of_an_engine_alone_is_checked_against_its_own_layers(folder: Path) -> None:
    found = json.loads(good("bench", folder / "cpu.ingot", "--json", "-", *QUICK))
    assert "own layers" in found["reference"] and found["outputs"][0]["relative"] < 1e-4


def test_bench_of_a_zoo_model_keeps_the_engine(tmp_path: Path) -> None:
    flags = ["--target", "cpu", "--opt-level", 0, "--save", tmp_path / "kept.ingot", "--json", "-"]
    found = json.loads(good("bench", "zoo:bert_tiny", *flags, *QUICK))
    assert found["build_seconds"] > 0 and EngineFile.read(tmp_path / "kept.ingot").plan.target == "cpu"
    assert all(output["scale"] > 0.01 for output in found["outputs"]), "the random inputs give nothing"


def test_suite_writes_a_file_a_row_and_goes_on_after_failures(tmp_path: Path) -> None:
    words = ["bench", "--suite", "tiny", "--only", "resnet,vit", "--json-dir", tmp_path / "rows", "--opt-level", 0]
    text = good(*words, "--json", tmp_path / "all.json", *QUICK)
    assert "resnet_tiny-cpu" in text and "vit_tiny-cpu" in text
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == ["resnet_tiny-cpu.json", "vit_tiny-cpu.json"]
    assert [row["name"] for row in json.loads((tmp_path / "all.json").read_text())] == [
        "resnet_tiny-cpu", "vit_tiny-cpu",
    ]  # fmt: skip


def test_suite_keeps_errors_as_rows(tmp_path: Path) -> None:
    words = ["bench", "--suite", "tiny", "--only", "resnet", "--json-dir", tmp_path, "--target", "sm_7"]
    result = ingot(*words, *QUICK)
    assert result.exit_code == 1 and "failed" in result.stdout
    assert "no target 'sm_7'" in json.loads((tmp_path / "resnet_tiny-cpu.json").read_text())["error"]


def test_suite_stops_at_its_limit(tmp_path: Path) -> None:
    result = ingot("bench", "--suite", "tiny", "--limit", "0", "--json-dir", tmp_path)
    assert "5 rows left out" in result.stderr and not list(tmp_path.iterdir())


def test_zoo_and_library_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "ocr_rec" in good("zoo", "list") and "resnet50" in good("zoo", "list")
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
    assert "0 variants" in good("library", "list")
    assert json.loads(good("library", "list", "--json", "-")) == []


def test_library_holds_what_builds_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
    words = ["library", "build", "zoo:mobilenet_tiny", "--arch", "sm_90", "--opt-level", 3]
    architectures.save("mobilenet_tiny", tmp_path / "m.onnx")
    monkeypatch.setattr("ingot.tune.candidates.SHORTLIST", {3: 1})
    assert "sm_90: " in good(*words)
    record = tmp_path / "library.json"
    good(*words, "--json", record)
    (again,) = json.loads(record.read_text())
    assert again["compiled"] == 0 and again["variants"] == again["present"] == again["asked"] > 5
    assert sum(again["families"].values()) == again["variants"] and again["stored"] > 0 == len(again["failed"])
    (one,) = json.loads(good(*words, "--per-layer", 1, "--dry-run", "--json", "-"))
    assert one["asked"] == one["layers"] == again["layers"] and "compiled" not in one
    groups = json.loads(good("library", "list", "--json", "-"))
    assert sum(group["variants"] for group in groups) > 5
    assert "deleted" in good("library", "prune", "--keep", "0")
    assert json.loads(good("library", "list", "--json", "-")) == []
