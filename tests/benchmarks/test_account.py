"""benchmarks/account.py: what ncu wrote is read and joined with the plan, and what the tables say."""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import pytest
from support.snippets import ROOT
from support.stand_in import pass_on_stand_in

from ingot.errors import IngotError
from ingot.measure.environment import environment
from ingot.measure.latency import Latency
from ingot.plan.spec import Memory, Plan, RegionDecl, ValueDecl

FOLDER = ROOT / "benchmarks"
SAMPLE = Path(__file__).with_name("ncu_sample.csv")


@pytest.fixture
def ncu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import account_ncu

    return account_ncu


@pytest.fixture
def table(ncu: ModuleType) -> ModuleType:
    import account_table

    return account_table


@pytest.fixture
def times(ncu: ModuleType) -> ModuleType:
    import account_times

    return account_times


def test_what_ncu_wrote_is_read(ncu: ModuleType) -> None:
    stem, product = ncu.parse(SAMPLE.read_text())
    assert (stem.name, stem.grid, stem.block) == ("ingot_stem", (56, 1, 1), 256)
    wanted = {
        "duration": 6.176, "hz": 1826949874.39, "busy": 27.28, "sm": 8.04, "tensor": 7.18, "issue": 30.07,
        "warps": 12.34, "dram": 2.18, "dram_read": 642816, "dram_written": 0, "l2": 3.02, "l2_hit": 71.56,
    }  # fmt: skip
    assert {key: stem.counters[key] for key in wanted} == pytest.approx(wanted)
    assert sum(stem.stalls.values()) == pytest.approx(1.0)
    assert product.stalls["long_scoreboard"] / product.stalls["selected"] == pytest.approx(3.31)


@pytest.mark.parametrize("text", ["n/a", "", "inf", "nan"])
def test_what_is_no_number_is_left_out(ncu: ModuleType, text: str) -> None:
    sample = SAMPLE.read_text().replace('"18,176"', f'"{text}"').replace('"3.31"', f'"{text}"')
    _, product = ncu.parse(sample)
    assert "dram_read" not in product.counters and "long_scoreboard" not in product.stalls


def test_no_table_is_an_error(ncu: ModuleType) -> None:
    with pytest.raises(IngotError, match="no table of kernels: ==ERROR== The user"):
        ncu.parse("==ERROR== The user does not have permission\n")


def launches(ncu: ModuleType) -> list[object]:
    return [ncu.Launch(3, "ingot_stem", (56, 1, 1), 256), ncu.Launch(4, "ingot_product", (98, 1, 1), 256)]


def test_kernels_are_joined_with_steps(ncu: ModuleType) -> None:
    kernels = ncu.parse(SAMPLE.read_text())
    found = ncu.joined(kernels, launches(ncu))
    assert {step: kernel.name for step, kernel in found.items()} == {3: "ingot_stem", 4: "ingot_product"}
    assert ncu.joined(kernels[::-1], launches(ncu)) == found, "branches may come in another order"


def test_other_launches_than_the_plan_has_are_one_clear_error(ncu: ModuleType) -> None:
    kernels = ncu.parse(SAMPLE.read_text())
    with pytest.raises(IngotError, match="ncu saw 2 kernels where the engine has 1"):
        ncu.joined(kernels, launches(ncu)[:1])
    other = [ncu.Launch(3, "ingot_stem", (57, 1, 1), 256), launches(ncu)[1]]
    with pytest.raises(IngotError, match="saw ingot_stem with grid 56x1x1 and 256 threads, .* grid 57x1x1"):
        ncu.joined(kernels, other)


def fake_ncu(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called ncu that does ``script`` (Python), first on the PATH."""
    program = folder / "ncu"
    program.write_text(f"#!{sys.executable}\nimport sys, shutil, time\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_ncu_is_run_on_one_run_of_the_engine(ncu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
log, watched = sys.argv[sys.argv.index("--log-file") + 1], sys.argv[-4:]
assert sys.argv[sys.argv.index("--cache-control") + 1] == "all"
assert watched[1].endswith("account_run.py") and watched[2:] == ["an.ingot", "feeds.npz"], watched
shutil.copy({str(SAMPLE)!r}, log)"""
    fake_ncu(tmp_path, script, monkeypatch)
    kernels = ncu.counted(Path("an.ingot"), Path("feeds.npz"), tmp_path / "log.csv", "all", 20.0)
    assert [kernel.name for kernel in kernels] == ["ingot_stem", "ingot_product"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "print('==ERROR== ERR_NVGPUCTRPERM - no permission'); sys.exit(1)",
            "code 1: ERR_NVGPUCTRPERM - no permission",
        ),
        ("sys.exit('it broke')", "code 1: it broke"),
        ("time.sleep(30)", "not finished within 0.5 s"),
        ("", "no table of kernels"),
    ],
)
def test_ncu_that_fails_gives_its_reason(
    ncu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    fake_ncu(tmp_path, script, monkeypatch)
    with pytest.raises(IngotError, match=reason):
        ncu.counted(
            Path("an.ingot"), Path("feeds.npz"), tmp_path / "log.csv", "none", 0.5 if "sleep" in script else 20.0
        )


def test_no_ncu(ncu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IngotError, match="no ncu on the PATH"):
        ncu.counted(Path("an.ingot"), Path("feeds.npz"), tmp_path / "log.csv", "none", 20.0)


@pytest.mark.parametrize(
    ("model", "name", "wanted"),
    [
        ("zoo:resnet50", None, "resnet50-b1"),
        ("zoo:bert_base", None, "bert_base"),
        ("some/net.onnx", None, "net"),
        ("some/net.onnx", "mine", "mine"),
    ],
)
def test_an_account_of_another_model_has_another_name(
    ncu: ModuleType, monkeypatch: pytest.MonkeyPatch, model: str, name: str | None, wanted: str
) -> None:
    import account

    monkeypatch.setattr(account, "subject", lambda model, flags: nullcontext(SimpleNamespace(seconds=0.0)))
    monkeypatch.setattr(account, "measured", lambda found, given: SimpleNamespace(uncounted="", name=given.name))
    given = argparse.Namespace(model=model, name=name, shapes=[], fp32=False, opt_level=2, json=None)
    assert account._made(given).name == wanted


def plan_of(kind: str, ops: list[str], *shapes: tuple[str, list[int]]) -> tuple[Plan, RegionDecl]:
    """A plan's values, the last of them written by the only layer."""
    values = [ValueDecl(f"v{i}", "float16", list(s), [], Memory(space)) for i, (space, s) in enumerate(shapes)]
    last = len(values) - 1
    region = RegionDecl("layer", kind, ops, "", list(range(last)), [last], "cuda.x[a=1]", 0.0, False, 0, 0, "float16")
    return Plan("sm_90", [], [], [], values, [region], [], [], [], 0, 0, 0), region


LAYERS = [
    (
        plan_of(
            "conv", ["Conv", "Relu"], ("arena", [1, 128, 56, 56]), ("weights", [96, 128, 3, 3]),
            ("arena", [1, 96, 28, 28]),
        ),
        "3x3/2 128->96 @28",
    ),
    (
        plan_of(
            "conv", ["Conv", "Add"], ("arena", [1, 64, 56, 56]), ("weights", [256, 64, 1, 1]), ("weights", [256]),
            ("arena", [1, 256, 56, 56]), ("arena", [1, 256, 56, 56]),
        ),
        "1x1 64->256 @56 +res",
    ),
    (
        plan_of("conv", ["Conv"], ("arena", [1, 32, 9, 9]), ("weights", [32, 1, 3, 3]), ("arena", [1, 32, 9, 9])),
        "3x3 dw 32 @9",
    ),
    (
        plan_of(
            "stem", ["Cast", "Conv", "Relu", "MaxPool"], ("input", [1, 3, 224, 224]), ("weights", [64, 3, 7, 7]),
            ("arena", [1, 64, 56, 56]),
        ),
        "stem 7x7/2 3->64 @56",
    ),
    (
        plan_of(
            "chain", ["Conv", "Add", "Conv"], ("arena", [8, 64, 56, 56]), ("weights", [256, 64, 1, 1]),
            ("arena", [8, 256, 56, 56]), ("weights", [128, 256, 1, 1]), ("arena", [8, 128, 56, 56]),
        ),
        "chain 1x1 64->256, 1x1 256->128 @56 +res",
    ),
    (
        plan_of("gemm", ["MatMul"], ("arena", [1, 128, 768]), ("weights", [768, 3072]), ("arena", [1, 128, 3072])),
        "gemm 768->3072 of 128 rows",
    ),
    (plan_of("reduce", ["ReduceMean"], ("arena", [4, 9]), ("arena", [4, 1])), "reduce ReduceMean 4x1"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "text"), LAYERS, ids=[text for _, text in LAYERS])
def test_a_layer_is_called_by_what_it_computes(table: ModuleType, made: tuple[Plan, RegionDecl], text: str) -> None:
    assert table.label(*made, {}) == text


def account(table: ModuleType, times: ModuleType, *, counted: bool = True) -> object:
    steps = [
        table.Step(
            number, layer, tactic, "ingot_product", [98, 1, 1], alone, inside, 0.5,
            {"duration": 4.0, "busy": 50.0, "tensor": 4.0} if counted else {},
            {"selected": 0.3, "barrier": 0.2, "long_scoreboard": 0.45, "wait": 0.05} if counted else {},
        )
        for number, (layer, tactic, alone, inside) in enumerate(
            [("1x1 64->64 @56", "cuda.hopper[bn=32]", 2.0, 6.0), ("pool", "cuda.pool[x=1]", 1.5, 1.0),
             ("1x1 64->64 @56", "cuda.hopper[bn=64]", 3.0, 2.5)]
        )
    ]  # fmt: skip
    run = Latency.of([170e-6, 172e-6])
    host = times.Host(run, run, run, times.Slow(100, 12.5, 2.5, 10.0))
    whole = times.Whole(host, host, run, run, None)
    reason = "" if counted else "there is no ncu"
    machine = msgspec.structs.replace(environment(None), sms=132)
    return table.Account(
        "b1", "zoo:resnet50", {}, {"input": [1, 3, 224, 224]}, machine, 5e-4, 0.03, whole, steps,
        uncounted=reason, nothing=table.Nothing(1.5, 0.75, 213 << 10, 1.25, 0.875) if counted else None,
    )  # fmt: skip


def test_equal_layers_share_a_row(table: ModuleType, times: ModuleType) -> None:
    text = table.markdown(account(table, times))
    row = (
        "| 1x1 64->64 @56 | 2 | 2.5 | 4.2 | 8.5 | 0.5 | 98 | 2.7 | 8 % | – | memory or a tile 45 %, "
        "block's barrier 20 % | `cuda.hopper` |"
    )
    assert row in text
    assert "| all, in sum | 3 | 6.5 |  | 9.5 | 1.5 |  | 8.1 |" in text
    assert "| one run, from the host | 2 | 171.0 | 172.0 | 1.006 |" in text
    assert "100 runs take 12.5 µs more than the median: 2.5 in `enqueue`, 10.0 in the wait; with" in text
    assert "every 1.50 µs; by programmatic edges every 0.75, with 213 KB of shared memory a block every 1.25" in text
    assert "without programmatic edges" not in text, "an engine without such edges has no row of it"


def test_without_counters_the_table_says_why(table: ModuleType, times: ModuleType) -> None:
    text = table.markdown(account(table, times, counted=False))
    assert "| 1x1 64->64 @56 | 2 | 2.5 | 4.2 | 8.5 | 0.5 | `cuda.hopper` |" in text
    assert "No hardware counters: there is no ncu." in text and "on an SM" not in text


def test_the_tables_of_a_file_go_into_a_page(table: ModuleType, times: ModuleType, tmp_path: Path) -> None:
    page, json = tmp_path / "page.md", tmp_path / "account.json"
    json.write_bytes(msgspec.json.encode(account(table, times)))
    page.write_text("before\n<!-- account b1 -->\nold\n<!-- /account b1 -->\nafter\n")
    command = [sys.executable, str(FOLDER / "account.py"), "--results", str(json), "--into", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "| pool | 1 |" in text and "old" not in text
    json.write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "this is no account" in done.stderr


def test_which_part_makes_slow_runs_slow(times: ModuleType) -> None:
    enqueue, wait = [3e-6] * 200, [167e-6] * 200
    enqueue[7], wait[7], wait[90] = 5e-6, 177e-6, 187e-6
    slow = times.slow(enqueue, wait)
    assert slow.runs == 2
    assert (slow.run, slow.enqueue, slow.wait) == pytest.approx((16.0, 1.0, 15.0))


def test_measuring_passes_on_the_stand_in_driver(tmp_path: Path) -> None:
    pass_on_stand_in(tmp_path, "benchmarks/test_account_device.py")
