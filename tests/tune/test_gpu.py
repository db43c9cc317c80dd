"""Gate and timer on a real device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.recurrent import Case
from support.regions import Op, conv_region, gemm_region
from support.tuning import WRONG, Scale, doubling, lowered

from ingot.device.device import Device
from ingot.device.driver import available
from ingot.errors import No
from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Program, Target
from ingot.kernels.cuda.recurrent.tactic import TACTICS as RECURRENT_TACTICS
from ingot.options import BuildOptions
from ingot.tune import measure
from ingot.tune.api import choose
from ingot.tune.database import Database
from ingot.tune.measure import DeviceMeasurer
from ingot.tune.setting import Setting, Timing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not available(), reason="needs an NVIDIA GPU")]
SIZE = 1 << 16
(RECURRENT,) = RECURRENT_TACTICS


@pytest.fixture
def target() -> Target:
    info = Device.open(0).info
    return Target(info.cc, sms=info.sms, shared_per_block=info.shared_per_block)


@pytest.fixture
def measurer() -> Iterator[DeviceMeasurer]:
    made = DeviceMeasurer("test", Setting(0, tf32=False, weights=64 << 20))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))


def recurrent(name: str) -> Region:
    after = (("linear_before_reset", 1),)
    return {
        "cluster": Case("GRU", 20, 32, 400, dtype="float16", attrs=after),
        "grid": Case("LSTM", 10, 16, 700, ("b", "h0")),
    }[name].region()


@pytest.mark.parametrize("name", ["cluster", "grid"])
def test_every_kind_of_a_recurrent_layer_is_right_in_graphs(
    name: str, measurer: DeviceMeasurer, target: Target
) -> None:
    """Some of them are launched cooperatively."""
    region = recurrent(name)
    programs = {str(v): RECURRENT.compile(region, v, target) for v in RECURRENT.variants(region, target, {})}
    assert any(program.kernels[0].cooperative for program in programs.values())
    found = measurer.measure(region, {}, programs)
    assert isinstance(found, dict) and found.keys() == programs.keys()
    for variant, timing in found.items():
        assert isinstance(timing, Timing), f"{variant}: {timing}"
        assert 5e-6 < timing.seconds < 20e-3


def compiled(tactic: Scale, region: Region, target: Target) -> dict[str, Program]:
    return {str(v): tactic.compile(region, v, target) for v in tactic.variants(region, target, {})}


def test_times_are_plausible(measurer: DeviceMeasurer, target: Target) -> None:
    small, large = doubling(1024), doubling(1 << 28)
    for region, least, most in ((small, 0.3e-6, 20e-6), (large, 2 * (1 << 30) / 12e12, 5e-3)):
        found = measurer.measure(region, {}, compiled(Scale(), region, target))
        assert isinstance(found, dict) and len(found) == 2
        for timing in found.values():
            assert isinstance(timing, Timing), timing
            assert least < timing.seconds < most
            assert timing.noise < 0.2


def test_every_wrong_kernel_is_refused_and_the_right_ones_still_measured(
    monkeypatch: pytest.MonkeyPatch, measurer: DeviceMeasurer, target: Target
) -> None:
    monkeypatch.setattr(measure, "_CALL_TIMEOUT", 10.0)
    region = doubling(SIZE)
    programs = compiled(Scale((1, 2, 3, 4, 5, 6, 0)), region, target)
    found = measurer.measure(region, {}, programs)
    assert isinstance(found, dict)
    for text, result in found.items():
        mode = int(text.rstrip("]").partition("mode=")[2])
        if mode == 0:
            assert isinstance(result, Timing), result
        else:
            assert isinstance(result, No) and WRONG[mode] in result.reason, (text, result)


def test_a_build_chooses_by_time_among_real_tactics(target: Target, tmp_path: Path) -> None:
    from ingot.kernels.table import TACTICS

    relu = [Op("Relu", ("acc",), "y")]
    skip = {"skip": spec("float16", (1, 64, 14, 14), (0, 2, 3, 1))}
    add = [Op("Add", ("acc", "skip"), "sum"), Op("Relu", ("sum",), "y")]
    graph = lowered(
        conv_region((1, 64, 14, 14), (64, 64, 3, 3), pads=(1, 1, 1, 1), epilogue=add, extras=skip),
        gemm_region((128, 768), (768, 768), epilogue=relu),
        gemm_region((128, 768), (768, 768), dtype="float32"),
        doubling(1000, dtype="float16"),
    )
    options = BuildOptions(opt_level=3, timing_db=tmp_path / "times.json")
    steps: list[tuple[str, int, int]] = []
    device = Device.open(0)
    cold = choose(graph, target, options, TACTICS, progress=lambda *s: steps.append(s), device=device)
    for choice in cold:
        assert choice.measured and choice.program is not None and 0.3 < choice.micros < 200, choice.notes
    measured = [total for stage, done, total in steps if stage == "measure" and done == total]
    assert measured
    entries = list(Database.load(tmp_path / "times.json"))
    assert len(entries) == 4 and all(entry.micros for entry in entries)
    steps.clear()
    warm = choose(graph, target, options, TACTICS, progress=lambda *s: steps.append(s), device=device)
    assert not [s for s in steps if s[0] == "measure"]
    assert warm == cold


def test_large_batches_are_checked_in_part_and_quickly(measurer: DeviceMeasurer, target: Target) -> None:
    region = doubling(64, 1 << 20)
    found = measurer.measure(region, {}, compiled(Scale((0, 3)), region, target))
    assert isinstance(found, dict)
    assert [isinstance(found[t], Timing) for t in sorted(found)] == [True, False, True, False]
