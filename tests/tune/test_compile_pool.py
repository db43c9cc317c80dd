from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tuning import Fake, Scale, doubling

from ingot.errors import No
from ingot.kernels.api import Program, Target, Variant
from ingot.tune.compile_pool import CompilePool, Task
from ingot.tune.worker import Worker

TARGET = Target(90)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))


def tasks(tactic: Fake | Scale) -> list[Task]:
    region = doubling(1000)
    return [Task(region, tactic, variant, i) for i, variant in enumerate(tactic.variants(region, TARGET, {}))]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_answered_once(jobs: int) -> None:
    work = tasks(Fake(seconds=(1e-6,) * 7, actions=("ok", "raise", "ok", "shared", "ok", "ok", "ok")))
    with CompilePool(TARGET, jobs=jobs) as pool:
        results = dict(pool.compile(work))
        assert dict(pool.compile(work)).keys() == results.keys()
    assert sorted(results) == list(range(7))
    assert {i: str(r) for i, r in results.items() if isinstance(r, No)} == {
        1: "IngotError: does not fit",
        3: "1048576 bytes of shared memory; sm_90 has 232448",
    }


def test_the_dearest_comes_first() -> None:
    with CompilePool(TARGET, jobs=1) as pool:
        assert [index for index, _ in pool.compile(tasks(Fake()))] == [2, 1, 0]


def test_a_crash_and_a_hang_cost_one_variant_each() -> None:
    work = tasks(Fake(seconds=(1e-6,) * 5, actions=("ok", "crash", "ok", "hang", "ok")))
    start = time.monotonic()
    with CompilePool(TARGET, jobs=2, timeout=3.0) as pool:
        results = dict(pool.compile(work))
    assert time.monotonic() - start < 30
    refusals = {i: str(r) for i, r in results.items() if isinstance(r, No)}
    assert set(refusals) == {1, 3}
    assert "SIGSEGV" in refusals[1] and "the compiler is confused" in refusals[1]
    assert "no answer within 3 s" in refusals[3]


def test_leaving_early_ends_the_processes() -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), CompilePool(TARGET, jobs=2) as pool:
        for _ in pool.compile(tasks(Fake(seconds=(1e-6,) * 3, actions=("hang", "ok", "hang")))):
            raise KeyboardInterrupt
    assert time.monotonic() - start < 30
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True).stdout
    assert "ingot.tune.worker" not in children


def test_a_script_without_a_main_guard_can_compile(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from support.tuning import Fake, doubling\n"
        "from ingot.kernels.api import Target\n"
        "from ingot.tune.compile_pool import CompilePool, Task\n"
        "tactic, region = Fake(), doubling(4)\n"
        "with CompilePool(Target(90), jobs=2) as pool:\n"
        "    made = list(pool.compile([Task(region, tactic, v) for v in tactic.variants(region, Target(90), {})]))\n"
        "print(len(made), all(hasattr(p, 'kernels') for _, p in made))\n"
    )
    paths = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=paths)
    assert done.stdout == "3 True\n", done.stderr


def test_an_unpicklable_tactic_is_a_refusal_not_a_hang() -> None:
    class Local(Fake):
        pass

    with CompilePool(TARGET, jobs=2) as pool:
        results = dict(pool.compile(tasks(Local())))
    assert len(results) == 3 and all(isinstance(r, No) for r in results.values())


def test_real_compilations_in_parallel_match_those_in_process() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    work = tasks(Scale())
    with CompilePool(TARGET, jobs=2) as pool:
        apart = dict(pool.compile(work))
    with CompilePool(TARGET, jobs=1) as pool:
        here = dict(pool.compile(work))
    assert apart == here and len(apart) == 2
    programs = [p for p in apart.values() if isinstance(p, Program)]
    assert len(programs) == 2 and all(p.kernels[0].cubin.startswith(b"\x7fELF") for p in programs)
    assert programs[0].kernels[0].block != programs[1].kernels[0].block


def test_code_that_does_not_compile_is_a_refusal() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    tactic = Scale()
    bad = Variant("scale", (("block", 0), ("mode", 99)))
    with CompilePool(TARGET, jobs=1) as pool:
        ((_, result),) = pool.compile([Task(doubling(8), tactic, bad)])
    assert isinstance(result, No)


def test_a_worker_keeps_its_process_and_replaces_a_dead_one() -> None:
    worker = Worker()
    try:
        first = worker.call("os:getpid", timeout=20)
        assert worker.call("os:getpid", timeout=20) == first != os.getpid()
        assert isinstance(worker.call("os:abort", timeout=20), No) and not worker.alive
        assert worker.call("os:getpid", timeout=20) != first and worker.starts == 2
        assert isinstance(worker.call("os:nothing", timeout=20), No) and worker.alive
    finally:
        worker.close()
    assert isinstance(worker.call("os:getpid", timeout=20), No)


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from ingot.tune.worker import Worker\n"
        "worker = Worker()\n"
        "print(worker.call('os:getpid', timeout=20), flush=True)\n"
        "worker.call('time:sleep', 600, timeout=600)\n"
    )
    paths = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=paths) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip() / "cmdline"
        assert b"ingot.tune.worker" in child.read_bytes()
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 15
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(child)


def _alive(cmdline: Path) -> bool:
    """Whether the process is there and no zombie (whose command line is empty)."""
    try:
        return b"ingot.tune.worker" in cmdline.read_bytes()
    except OSError:
        return False
