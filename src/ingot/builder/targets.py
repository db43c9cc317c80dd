"""The GPUs Ingot builds for, and the one a build is for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.device.device import Device, DeviceInfo
from ingot.device.driver import installed
from ingot.errors import IngotError
from ingot.kernels.api import Target

_USUAL = "sm_90"
_REACHED = 0.9
"""Share of the paper bandwidth that a copy reaches."""

TARGETS: tuple[Target, ...] = (
    # What a copy and a large FP16 product reach on the usual card of the family, and its FP32 rate.
    Target(75, sms=40, bandwidth=0.27e12, flops=40e12, flops_fp32=7e12, shared_per_block=65536),
    Target(80, sms=108, bandwidth=1.8e12, flops=260e12, flops_fp32=18e12, shared_per_block=166912),
    Target(86, sms=84, bandwidth=0.7e12, flops=120e12, flops_fp32=30e12, shared_per_block=101376),
    Target(87, sms=16, bandwidth=0.18e12, flops=40e12, flops_fp32=4.5e12, shared_per_block=166912),
    Target(89, sms=142, bandwidth=0.8e12, flops=300e12, flops_fp32=80e12, shared_per_block=101376),
    Target(90, sms=132, bandwidth=4.3e12, flops=790e12, flops_fp32=60e12, shared_per_block=232448),
    Target(100, sms=148, bandwidth=7.0e12, flops=1600e12, flops_fp32=70e12, shared_per_block=232448),
    Target(110, sms=20, bandwidth=0.25e12, flops=120e12, flops_fp32=7e12, shared_per_block=232448),
    Target(120, sms=170, bandwidth=1.6e12, flops=210e12, flops_fp32=90e12, shared_per_block=101376),
)


@dataclass(frozen=True)
class Chosen:
    """What a build is for: a Target and, when it is present, the device; neither for the CPU."""

    target: Target | None
    device: Device | None = None

    @property
    def name(self) -> str:
        """``cpu`` or ``sm_90`` ..."""
        return self.target.name if self.target else "cpu"


def choose_target(name: str, *, tf32: bool = False) -> Chosen:
    """The target called ``name``: ``auto``, ``cuda``, ``cpu`` or ``sm_75`` ... ``sm_120``.

    ``auto`` is the GPU if there is one, else the CPU. Raises IngotError for an unknown name, and for
    ``cuda`` without a GPU.
    """
    if name == "cpu":
        return Chosen(None)
    known = {t.name: t for t in TARGETS}
    if name in ("auto", "cuda"):
        try:
            device = Device.open()
        except IngotError as error:
            if name == "auto":
                return Chosen(None)
            fix = f"build for the CPU (--target cpu) or for a GPU elsewhere (--target {', '.join(known)})"
            raise IngotError(f"there is no GPU to build for: {error.reason}", fix=fix) from None
        return Chosen(replace(present(device.info), tf32=tf32), device)
    if name not in known:
        raise IngotError(f"there is no target {name!r}", fix=f"take one of: auto, cuda, cpu, {', '.join(known)}")
    return Chosen(replace(known[name], tf32=tf32), _device_of(name))


def without_cpu(name: str) -> str:
    """``name`` for work that only GPUs need: ``auto`` is the GPU that is there, else sm_90.

    Raises IngotError for ``cpu``.
    """
    if name == "cpu":
        known = ", ".join(t.name for t in TARGETS)
        raise IngotError("on the CPU ONNX Runtime runs the whole model", fix=f"take a GPU as target: {known}")
    if name != "auto":
        return name
    return name if installed() and choose_target(name).target is not None else _USUAL


def gpu_target(name: str, *, tf32: bool = False) -> Target:
    """As :func:`choose_target` after :func:`without_cpu`, without opening a GPU where one is named: nothing runs."""
    named = without_cpu(name)
    for target in TARGETS:
        if target.name == named:
            return replace(target, tf32=tf32)
    found = choose_target(named, tf32=tf32).target
    assert found is not None
    return found


def _device_of(name: str) -> Device | None:
    """The present GPU if it is of this architecture, so that naming it measures as ``auto`` does."""
    try:
        device = Device.open()
    except IngotError:
        return None
    return device if device.info.target == name else None


def present(info: DeviceInfo) -> Target:
    """The Target of a GPU that is there. Raises IngotError when it is older than every target."""
    family = [t for t in TARGETS if t.cc <= info.cc and t.cc // 10 == info.cc // 10]
    if not family:
        raise IngotError(
            f"{info.name} is {info.target}, for which Ingot has no kernels",
            fix=f"use a GPU of {TARGETS[0].name} or later, or --target cpu",
        )
    like = family[-1]
    scale = info.sms / like.sms
    return replace(
        like,
        cc=info.cc,
        sms=info.sms,
        bandwidth=_REACHED * info.bandwidth if info.bandwidth else like.bandwidth,
        flops=like.flops * scale,
        flops_fp32=like.flops_fp32 * scale,
        shared_per_block=info.shared_per_block,
    )
