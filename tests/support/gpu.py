"""Runs a compiled Program on the device: strided uploads, poisoned outputs, guarded buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from support.products import Case
from support.strided import bound, poisoned, scatter, window

from ingot.device.launch import Arg, KernelArgs, integer, pointer
from ingot.device.tensor_map import encoded
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Region
from ingot.kernels.api import Argument, Input, Kernel, Output, Pdl, Program, Scratch, Target, TensorMap, Value

_GUARD = 512
"""Bytes of 0xFF kept before and after every buffer; a change is an out-of-bounds write."""


def _ok(result: tuple[Any, ...]) -> Any:
    status, *values = result
    assert int(status) == 0, f"driver call failed: {status!r}"
    return values[0] if len(values) == 1 else values


@lru_cache(maxsize=1)
def device_target() -> Target | None:
    """The Target of device 0, or None where there is no usable device. Makes its context current."""
    try:
        from cuda.bindings import driver

        if int(driver.cuInit(0)[0]) != 0 or _ok(driver.cuDeviceGetCount()) == 0:
            return None
    except (ImportError, RuntimeError, OSError):
        return None
    device = _ok(driver.cuDeviceGet(0))
    context = _ok(driver.cuDevicePrimaryCtxRetain(device))
    _ok(driver.cuCtxSetCurrent(context))
    attribute = driver.CUdevice_attribute

    def get(name: str) -> int:
        return int(_ok(driver.cuDeviceGetAttribute(getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device)))

    return Target(
        cc=get("COMPUTE_CAPABILITY_MAJOR") * 10 + get("COMPUTE_CAPABILITY_MINOR"),
        sms=get("MULTIPROCESSOR_COUNT"),
        shared_per_block=get("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    )


def target_from(cc: int) -> Target:
    """The Target of device 0; skips the test where its compute capability is below ``cc``, or there is none."""
    found = device_target()
    if found is None or found.cc < cc:
        pytest.skip(f"no GPU of compute capability {cc / 10:.1f} or later")
    return found


class _Buffer:
    """Device memory holding a flat array between two guards."""

    def __init__(self, content: np.ndarray) -> None:
        from cuda.bindings import driver

        self.driver, self.like = driver, content
        self.image = np.full(content.nbytes + 2 * _GUARD, 0xFF, np.uint8)
        self.image[_GUARD : _GUARD + content.nbytes] = content.view(np.uint8).reshape(-1)
        self.base = int(_ok(driver.cuMemAlloc(self.image.nbytes)))
        self.upload()

    @property
    def address(self) -> int:
        return self.base + _GUARD

    def upload(self) -> None:
        _ok(self.driver.cuMemcpyHtoD(self.base, self.image.ctypes.data, self.image.nbytes))

    def download(self) -> np.ndarray:
        image = np.empty_like(self.image)
        _ok(self.driver.cuMemcpyDtoH(image.ctypes.data, self.base, image.nbytes))
        assert (image[:_GUARD] == 0xFF).all(), "a kernel wrote before a buffer"
        assert (image[len(image) - _GUARD :] == 0xFF).all(), "a kernel wrote past a buffer"
        return image[_GUARD : len(image) - _GUARD].copy().view(self.like.dtype)

    def free(self) -> None:
        _ok(self.driver.cuMemFree(self.base))


def _parameters(
    kernel: Kernel, inputs: list[_Buffer], outputs: list[_Buffer], scratch: list[_Buffer], bindings: Bindings
) -> KernelArgs:
    def one(argument: Argument) -> Arg:
        match argument:
            case Input(index):
                return pointer(inputs[index].address)
            case Output(index):
                return pointer(outputs[index].address)
            case Scratch(index):
                return pointer(scratch[index].address)
            case Value(dim, width):
                return integer(evaluate(dim, bindings), width)
            case TensorMap(tensor=tensor):
                address = one(tensor)
                assert not isinstance(address, bytes)
                return encoded(argument, address[0], bindings)
        return pointer(0)

    return KernelArgs([one(argument) for argument in kernel.arguments])


def _launch(kernel: Kernel, function: Any, parameters: KernelArgs, grid: list[int]) -> None:
    from cuda.bindings import driver

    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = kernel.block, 1, 1
    config.sharedMemBytes = kernel.shared
    attributes = []
    if kernel.pdl is not Pdl.NONE:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        attributes.append(attribute)
    if kernel.cooperative:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        attribute.value.cooperative = 1
        attributes.append(attribute)
    if kernel.cluster > 1:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster = attribute.value.clusterDim
        cluster.x, cluster.y, cluster.z = kernel.cluster, 1, 1
        attributes.append(attribute)
    config.attrs, config.numAttrs = attributes, len(attributes)
    _ok(driver.cuLaunchKernelEx(config, function, parameters.address, 0))


def run_program(
    region: Region,
    program: Program,
    inputs: Sequence[np.ndarray],
    bindings: Bindings | None = None,
    *,
    repeats: int = 2,
) -> list[np.ndarray]:
    """Logical outputs of ``program`` for logical ``inputs`` (in the order of the Region's).

    Runs it ``repeats`` times over the same workspaces and asserts that guards are intact, that inputs
    are unchanged, and that a deterministic Program gives the same bits every time.
    """
    from cuda.bindings import driver

    assert device_target() is not None
    bindings = bindings or {}
    in_specs = [bound(spec, bindings) for spec in region.input_specs]
    out_specs = [bound(spec, bindings) for spec in region.output_specs]
    ins = [_Buffer(scatter(np.asarray(a), s)) for a, s in zip(inputs, in_specs, strict=True)]
    outs = [_Buffer(poisoned(s)) for s in out_specs]
    scratch = [
        _Buffer(np.full(max(evaluate(w.bytes, bindings), 1), 0 if w.zeroed else 0xFF, np.uint8))
        for w in program.workspaces
    ]
    modules = [_ok(driver.cuModuleLoadData(kernel.cubin)) for kernel in program.kernels]
    previous: list[np.ndarray] | None = None
    try:
        for _ in range(repeats):
            for buffer in outs:
                buffer.upload()
            for kernel, module in zip(program.kernels, modules, strict=True):
                function = _ok(driver.cuModuleGetFunction(module, kernel.entry.encode()))
                limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                _ok(driver.cuFuncSetAttribute(function, limit, kernel.shared))
                if kernel.cluster > 8:
                    large = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
                    _ok(driver.cuFuncSetAttribute(function, large, 1))
                grid = [evaluate(d, bindings) for d in kernel.grid]
                if 0 not in grid:
                    _launch(kernel, function, _parameters(kernel, ins, outs, scratch, bindings), grid)
            _ok(driver.cuCtxSynchronize())
            flat = [buffer.download() for buffer in outs]
            for buffer in (*ins, *scratch):
                content = buffer.download()
                assert buffer in scratch or content.tobytes() == buffer.like.tobytes(), "a kernel changed an input"
            for workspace, buffer in zip(program.workspaces, scratch, strict=True):
                assert not workspace.zeroed or not buffer.download().any(), "a zeroed workspace is not left zero"
            if previous is not None and program.deterministic:
                for a, b in zip(previous, flat, strict=True):
                    assert a.tobytes() == b.tobytes(), "a second run gave other bits"
            previous = flat
    finally:
        for module in modules:
            driver.cuModuleUnload(module)
        for buffer in (*ins, *outs, *scratch):
            buffer.free()
    assert previous is not None
    return [window(f, s).copy() for f, s in zip(previous, out_specs, strict=True)]


def check_case(case: Case, programs: Iterable[tuple[object, Program]]) -> None:
    """Runs each of ``programs``, by name, on the same inputs; the error of a wrong result says which it was."""
    inputs = case.inputs()
    for name, program in programs:
        got = run_program(case.region, program, inputs, case.bindings)
        try:
            case.check(inputs, got)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
