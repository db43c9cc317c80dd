"""benchmarks/account.py on a hand-written engine. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import tiny
from support.snippets import ROOT
from support.tiny import TinyPlan, number

from ingot.cli.source import open_source
from ingot.cli.subject import Subject
from ingot.engine.file import EngineFile
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]

N = 1000
NAMES = ("scale", "scale_pdl", "add")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import account

    if tiny.FAKE:  # which has only the kernels of hand-written plans
        monkeypatch.setattr(account.account_chain, "nothing", lambda target, shared: None)
    return account


def engine(programmatic: bool = True) -> Engine:
    """y = 2x + 3 * 2x by three kernels, and a copy of y."""
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("a", [N], offset=0, size=1 << 13)
    p.value("b", [N], offset=1 << 13, size=1 << 13)
    p.value("y", [N], "output")
    p.value("z", [N], "output")
    first = p.kernel("scale", ["x", "a", number(N), number(2)], N, ["a"])
    second = p.kernel("scale_pdl", ["a", "b", number(N), number(3)], N, ["b"], after=[first], programmatic=programmatic)
    third = p.kernel("add", ["a", "b", "y", number(N)], N, ["y"], after=[second])
    p.copy("y", "z", after=[third])
    return p.engine()


def subject(folder: Path) -> Subject:
    """The engine and the model that it could have been made of."""

    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [N])

    nodes = [helper.make_node("Mul", ["x", "eight"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    eight = helper.make_tensor("eight", TensorProto.FLOAT, [], [8.0])
    graph = helper.make_graph(nodes, "g", [tensor("x")], [tensor("y"), tensor("z")], [eight])
    model, path = folder / "model.onnx", folder / "model.ingot"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), model)
    engine().save(path)
    return Subject("model.onnx", path, open_source(str(model)), True, 0.0, ())


def options(**given: object) -> argparse.Namespace:
    usual = dict(name="tiny", runs=50, seconds=5.0, no_ncu=False, ncu_seconds=60.0, cache="none", raw=None)
    return argparse.Namespace(**(usual | given))


def fake_ncu(folder: Path, names: tuple[str, ...]) -> None:
    """An ncu that runs what it watches, and says that it saw kernels of these names."""
    rows = [f'"{i}","{name}","(128, 1, 1)","(8, 1, 1)","{1000 + i}"' for i, name in enumerate(names)]
    head = ['"ID","Kernel Name","Block Size","Grid Size","gpu__time_duration.sum"', '"","","","","ns"']
    table = "\n".join([*head, *rows]) + "\n"
    lines = [
        f"#!{sys.executable}",
        "import subprocess, sys",
        "subprocess.run(sys.argv[-4:], check=True)",
        f"open(sys.argv[sys.argv.index('--log-file') + 1], 'w').write({table!r})",
    ]
    program = folder / "ncu"
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)


def test_an_engine_is_measured_checked_and_counted(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ncu(tmp_path, NAMES)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = script.measured(subject(tmp_path), options(raw=tmp_path / "raw.csv"))
    assert found.uncounted == "" and found.relative < 1e-6
    assert [step.kernel for step in found.steps] == [*NAMES, ""]
    assert [step.counters.get("duration") for step in found.steps] == pytest.approx([1.0, 1.001, 1.002, None])
    assert found.steps[0].grid == [8, 1, 1] and all(step.inside is not None for step in found.steps)
    assert found.whole.ordinary is not None
    for host in (found.whole.host, found.whole.spin):
        assert host.run.samples == host.enqueue.samples == host.wait.samples == 50
        assert host.run.median >= max(host.enqueue.median, host.wait.median)
    assert (tmp_path / "raw.csv").read_text().count("scale") == 2
    assert "| all, in sum | 4 |" in script.markdown(found)


def test_counters_of_other_kernels_are_left_out_with_the_reason(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ncu(tmp_path, NAMES[:2])
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = script.measured(subject(tmp_path), options())
    assert found.uncounted.startswith("ncu saw 2 kernels where the engine has 3")
    assert not any(step.counters for step in found.steps)


@pytest.mark.skipif(tiny.FAKE, reason="the stand-in driver runs no machine code of a GPU")
def test_kernels_that_do_nothing(script: ModuleType) -> None:
    found = script._nothing(engine().file)
    assert found is None or (0 < found.programmatic < 20 and 0 < found.ordinary < 20)


def test_beginnings_of_the_graph_leave_the_engine_as_it_was(script: ModuleType) -> None:
    context = engine().context()
    assert isinstance(context, DeviceContext)
    feeds = {"x": np.arange(N, dtype=np.float32)}
    context.bind(inputs=feeds)
    found = script.account_times.inside(context, 0.1)
    assert list(found.steps) == [0, 1, 2, 3] and found.error >= 0
    context.enqueue()
    context.synchronize()
    np.testing.assert_allclose(np.asarray(context.run(feeds)["z"]), 8 * feeds["x"])


def test_an_engine_without_programmatic_edges(script: ModuleType) -> None:
    made = script.account_times.without_programmatic(engine().file)
    assert made is not None and not any(step.programmatic for step in made.plan.steps)
    again = Engine(EngineFile.from_bytes(made.to_bytes()))  # the plan is a valid one
    feeds = {"x": np.ones(N, np.float32)}
    np.testing.assert_allclose(again.context().run(feeds)["y"], 8.0)
    assert script.account_times.without_programmatic(engine(programmatic=False).file) is None
