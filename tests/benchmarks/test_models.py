"""benchmarks/models.py: one model through every stage, and what the page says of failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.real_models import real_model
from support.snippets import ROOT

SCRIPT = ROOT / "benchmarks" / "models.py"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import models_table

    return models_table


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.models
def test_a_model_through_every_stage(table: ModuleType, tmp_path: Path) -> None:
    import msgspec

    real_model("pnet")
    page, json = tmp_path / "models.md", tmp_path / "models.json"
    done = run("--target", "sm_90", "--only", "pnet", "--opt-level", "0", "--out", page, "--json", json)
    assert done.returncode == 0, done.stderr
    (row,) = msgspec.json.decode(json.read_bytes(), type=table.Results).rows
    assert row.imports and row.stage == "done" and not row.problem
    for plan in row.plans.values():
        assert plan.target == "sm_90" and plan.kernels > 0 and not plan.islands and not plan.problem
    assert row.plans["fp32"].simulated.relative < 1e-3 and row.plans["fp16"].simulated.relative < 0.03
    assert row.cpu["fp32"].relative < 1e-3
    assert page.read_text().startswith("# Real models") and "| pnet | yes |" in page.read_text()


@pytest.mark.models
def test_a_timeout_costs_one_row_and_says_where(tmp_path: Path) -> None:
    real_model("rnet")
    page = tmp_path / "models.md"
    done = run("--target", "cpu", "--only", "rnet", "--timeout", "0.01", "--out", page)
    assert done.returncode == 0, done.stderr
    assert "not finished within 0.01 s" in page.read_text()


def test_some_models_again_keep_the_rows_of_others(table: ModuleType, tmp_path: Path) -> None:
    import msgspec

    json = tmp_path / "models.json"
    for only in ("rnet", "pnet", "rnet"):
        done = run("--target", "cpu", "--only", only, "--timeout", "0.01", "--json", json, "--out", tmp_path / "x.md")
        assert done.returncode == 0, done.stderr
    rows = msgspec.json.decode(json.read_bytes(), type=table.Results).rows
    assert [row.name for row in rows] == ["pnet", "rnet"]


def test_an_unknown_model_is_an_error() -> None:
    done = run("--only", "nothing-like-this")
    assert done.returncode == 1 and "no model's name contains" in done.stderr


def test_columns_of_another_machine_fill_in_for_missing_ones(table: ModuleType) -> None:
    about = table.Environment("NVIDIA H200", "sm_90", "cpu", "3.12", {})
    mine = table.Row("net", "package 1", "text", "0", True, nodes=3, plans={"fp16": table.Plan("sm_90", 2, 2, 1)})
    theirs = table.Plan("sm_90", 2, 2, 1, device=table.Error(0.5))
    gpu = table.Results(about, [table.Row("net", "package 1", "text", "0", True, plans={"fp16": theirs})])
    text = table.markdown(table.Results(about, [mine]), gpu)
    assert "| net | yes | 3 | 2 / 2 / 1 | 0 | – | – | – | – | – | **5.0e-01** |" in text
    assert "the same engine on NVIDIA H200" in text


def test_failures_and_islands_have_their_reasons(table: ModuleType) -> None:
    about = table.Environment("cpu", "x86_64", "cpu", "3.12", {})
    island = table.Plan("sm_90", 2, 1, 0, [table.Island(["GRU"], "g: GRU has no device kernel")])
    rows = [
        table.Row("a", "p 1", "", "0", True, plans={"fp16": island}),
        table.Row("b", "p 1", "", "1", False, import_reason="its opset is | unknown"),
        table.Row("c", "p 1", "", "2", True, plans={"fp32": table.Plan("cpu", 1, problem="all: no kernel")}),
        table.Row("d", "p 1", "", "0", twin="a"),
    ]
    text = table.markdown(table.Results(about, rows), None)
    assert "- **a**: GRU: g: GRU has no device kernel" in text
    assert "- **b**, import: its opset is \\| unknown" in text
    assert "- **c**: all of it. all: no kernel" in text
    assert "| d | the same file as a |" in text
