"""Calibration elsewhere than on the CPU: what a GPU is asked for, when it is not, and that both see the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.eight_bit import conv, data_for, pictures, prepared, residual_net
from support.gpu import device_target
from support.rewrites import Net

import ingot
from ingot.builder.api import build_hollow, device_observers, quantize_on
from ingot.builder.observing import Build, Observers
from ingot.builder.targets import choose_target
from ingot.device.device import Device
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.options import BuildOptions, Quantization
from ingot.precision.calibrate import Statistics, calibrate, kept
from ingot.precision.data import BATCH, Batch
from ingot.precision.host import HostRuns
from ingot.precision.inputs import Feeds
from ingot.precision.observer import HostObserver, Observed, Wanted
from ingot.precision.recipes import wanted_of
from ingot.precision.settings import Settings
from ingot.progress import silent

SETTINGS = Settings()
EACH = BATCH * 16 * 12 * 12 * 4
"""Bytes of a value of the residual net."""


class _Another:
    """Looks at data somewhere else, as the CPU would."""

    where = "another machine"

    def __init__(self, model: ir.Model, wanted: Wanted) -> None:
        self._host = HostObserver(HostRuns(model, wanted.names), wanted)

    def see(self, feeds: Feeds) -> None:
        self._host.see(feeds)

    def seen(self) -> Observed:
        return self._host.seen()


def _observers(build: Build, free: int = 1 << 33, *, always: bool = True) -> Observers:
    """For a GPU that is not there."""
    device: Any = SimpleNamespace(memory=lambda: (free, free), ordinal=0, info=SimpleNamespace(name="none", sms=1))
    target = choose_target("sm_90").target
    assert target is not None
    return Observers(device, target, build, always=always)


class _Hollow:
    """Builds engines without machine code, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.options: list[BuildOptions] = []
        self.outputs: list[list[str]] = []

    def __call__(self, model: onnx.ModelProto, options: BuildOptions) -> EngineFile:
        self.options.append(options)
        self.outputs.append([output.name for output in model.graph.output])
        return build_hollow(model, BuildOptions(target="sm_90", shapes=options.shapes))


def _opened(net: Net, samples: np.ndarray, observers: Observers, count: int | None = None) -> object:
    model = prepared(net)
    data = data_for(model, samples)
    return observers(model, wanted_of(model, SETTINGS), next(iter(data.batches())), count or data.samples, silent)


def test_what_is_built_takes_fewer_samples_too() -> None:
    build = _Hollow()
    found = _opened(residual_net(), pictures(), _observers(build, free=1))
    (options,) = build.options
    ((_, ranges),) = options.shapes
    assert [(r.min, r.opt, r.max) for r in ranges] == [(1, BATCH, BATCH), (3, 3, 3), (12, 12, 12), (12, 12, 12)]
    assert not options.fp16 and not options.tf32 and options.opt_level < 2
    assert isinstance(found, No) and "of the GPU can be used" in found.reason


def test_where_memory_is_short_values_are_observed_in_parts() -> None:
    build = _Hollow()
    _opened(residual_net(), pictures(), _observers(build, free=int(6.5 * EACH)))
    whole, *parts = build.outputs
    assert len(parts) > 1 and [name for part in parts for name in part] == whole


def test_a_host_step_is_a_reason_for_the_cpu() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 12, 12]), 3, 16))
    y = net.op("Mul", net.op("Det", net.op("MatMul", x, net.normal(12, 12))), net.normal(1))
    net.output(net.op("MatMul", y, net.normal(16, 8)))
    found = _opened(net, pictures(), _observers(_Hollow()))
    assert isinstance(found, No) and "runs on the host" in found.reason and "Det" in found.reason


def test_an_engine_that_cannot_be_built_is_a_reason_for_the_cpu() -> None:
    def build(model: onnx.ModelProto, options: BuildOptions) -> EngineFile:
        raise IngotError("no compiler", node="sm_90", fix="install one")

    found = _opened(residual_net(), pictures(), _observers(build))
    assert found == No("no compiler", "sm_90", "install one")


def test_the_reason_is_that_of_the_host_step_itself() -> None:
    def build(model: onnx.ModelProto, options: BuildOptions) -> Any:
        steps = [SimpleNamespace(kind="host", name="n1")]
        return SimpleNamespace(plan=SimpleNamespace(target="sm_90", steps=steps, reasons=["n10: other", "n1: own"]))

    found = _opened(residual_net(), pictures(), _observers(build))
    assert isinstance(found, No) and found.reason == "part of the model runs on the host: n1: own"


def test_little_work_stays_on_the_cpu() -> None:
    build = _Hollow()
    observers = _observers(build, free=1, always=False)
    found = _opened(residual_net(), pictures(), observers)
    assert isinstance(found, No) and "sooner" in found.reason and not build.options
    # Of each sample x [3, 12, 12], four activations [16, 12, 12], and [16] before and after Flatten.
    assert f"{(3 * 144 + 4 * 16 * 144 + 2 * 16) * 24:,} numbers" in found.reason
    assert isinstance(_opened(residual_net(), pictures(), observers, 1 << 20), No) and build.options


def test_a_first_batch_without_samples_stays_on_the_cpu() -> None:
    model = prepared(residual_net())
    empty = Batch({"x": np.zeros((0, 3, 12, 12), np.float32)}, 0)
    found = _observers(_Hollow(), always=False)(model, wanted_of(model, SETTINGS), empty, 24, silent)
    assert isinstance(found, No) and "sooner" in found.reason


def _quantized(elsewhere: Any) -> Any:
    from ingot.builder.quantizing import quantize

    options = Quantization(budget=None)
    return quantize(residual_net(1).proto(), options, pictures(), elsewhere=elsewhere)


def test_the_report_says_where_it_was_calibrated() -> None:
    plain = _quantized(None)
    refused = _quantized(lambda *_: No("too large", "conv1", "free some"))
    other = _quantized(lambda model, wanted, *_: _Another(model, wanted))
    assert plain.report.calibrated_on == refused.report.calibrated_on == "CPU"
    assert other.report.calibrated_on == "another machine"
    assert "calibrated on the CPU: conv1: too large (free some)" in refused.report.notes
    assert not any("calibrated on the CPU" in note for note in (*plain.report.notes, *other.report.notes))
    models = [made.model.SerializeToString(deterministic=True) for made in (plain, refused, other)]
    assert models[0] == models[1] == models[2]


def test_a_target_that_nothing_is_calibrated_on() -> None:
    with pytest.raises(IngotError, match="calibrated on 'sm_90'"):
        quantize_on("sm_90", residual_net(1).proto(), Quantization(), pictures())


@pytest.mark.skipif(device_target() is not None, reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(IngotError, match="no GPU"):
        ingot.quantize(residual_net(1).proto(), pictures(), target="cuda")


# -- on a GPU


def _near(made: Statistics, wanted: Statistics) -> None:
    """The same but for the rounding of the model itself."""
    assert made.samples == wanted.samples and made.histograms.keys() == wanted.histograms.keys()
    for name, right in wanted.histograms.items():
        found = made.histograms[name]
        assert found.counts.sum() == right.counts.sum() and found.batches == right.batches
        for field in ("limit", "lowest", "highest", "average"):
            assert getattr(found, field) == pytest.approx(getattr(right, field), rel=1e-4, abs=1e-6), (name, field)
        moved = np.abs(np.cumsum(found.counts) - np.cumsum(right.counts)).max()
        assert moved <= 0.002 * right.counts.sum(), name
    for name, channels in wanted.channels.items():
        np.testing.assert_allclose(made.channels[name].mean, channels.mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(made.channels[name].largest, channels.largest, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("count", "free"), [(24, 1 << 32), (29, 1 << 32), (24, int(6.5 * EACH))])
def test_a_gpu_sees_what_the_cpu_sees(count: int, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "memory", lambda self: (free, free))
    model = prepared(residual_net())
    wanted, data = wanted_of(model, SETTINGS), data_for(model, pictures(count))
    observers = device_observers(choose_target("cuda"), always=True)
    assert observers is not None
    observer = observers(model, wanted, next(iter(data.batches())), data.samples, silent)
    assert not isinstance(observer, No), observer.reason
    made = calibrate(observer, data)
    assert made.where == Device.open().info.name
    _near(made, calibrate(HostObserver(HostRuns(model, wanted.names), wanted), data))


@pytest.mark.gpu
def test_batches_of_other_sizes_run_on_the_cpu() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, "H", "W"]), 3, 16))
    net.output(net.op("GlobalAveragePool", net.op("Relu", conv(net, str(x), 16, 16))))
    model = prepared(net)
    batches = [b for size in (12, 16, 12) for b in data_for(model, pictures(8, size=size)).batches()]
    data, wanted = kept(batches, "pictures"), wanted_of(model, SETTINGS)
    observers = device_observers(choose_target("cuda"), always=True)
    assert observers is not None
    observer = observers(model, wanted, batches[0], 24, silent)
    assert not isinstance(observer, No), observer.reason
    made = calibrate(observer, data)
    _near(made, calibrate(HostObserver(HostRuns(model, wanted.names), wanted), data))


@pytest.mark.gpu
def test_a_model_quantized_on_both() -> None:
    samples, model = pictures(40), residual_net().proto()
    one, two = (ingot.quantize(model, samples, target=target) for target in ("cuda", "cpu"))
    assert one.report.calibrated_on == Device.open().info.name and two.report.calibrated_on == "CPU"
    assert one.report.quantized == two.report.quantized
    a, b = ([layer.largest for layer in made.report.layers] for made in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-4)
    assert one.report.output_sqnr_db == pytest.approx(two.report.output_sqnr_db, abs=1.0)
