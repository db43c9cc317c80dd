"""The session's checks, on host memory in place of a device: kernels are Python functions on addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.tuning import doubling

from ingot.errors import Answer, No
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Input, Kernel, Output, Program, Scratch, Value, Workspace
from ingot.tune import session
from ingot.tune.gate import OutputGate
from ingot.tune.oracle import Expected
from ingot.tune.samples import random_inputs
from ingot.tune.setting import Setting
from ingot.tune.storage import Stored

N = 100


class HostBuffer:
    """What session needs of a device Buffer."""

    def __init__(self, size: int, what: str = "") -> None:
        self.bytes = size
        self._memory = np.zeros(size + 256, np.uint8)
        self.pointer = -(-self._memory.ctypes.data // 256) * 256

    def _view(self, offset: int, size: int) -> np.ndarray:
        assert 0 <= offset <= self.bytes - size
        start = self.pointer - self._memory.ctypes.data + offset
        return self._memory[start : start + size]

    def upload(self, data: np.ndarray, offset: int = 0) -> None:
        self._view(offset, data.nbytes)[...] = data

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
        return self._view(offset, shape[0]).copy()

    def close(self) -> None:
        pass


class HostStream:
    def fill(self, pointer: int, value: int, size: int) -> None:
        ctypes.memset(pointer, value, size)

    def copy(self, to: int, source: int, size: int) -> None:
        ctypes.memmove(to, source, size)

    def synchronize(self) -> None:
        pass


KERNELS: dict[str, Callable[..., None]] = {}


def floats(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def host_launch(
    function: str, grid: object, block: int, args: list[tuple[int, int]], stream: object, *, pdl: bool
) -> None:
    KERNELS[function](*(value for value, _ in args))


class HostModule:
    def __init__(self, cubin: bytes) -> None:
        self._entry = cubin.decode()

    def function(self, entry: str, shared: int, cluster: int, *, cooperative: bool) -> str:
        return self._entry


@pytest.fixture
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    def expected(region: Region, bindings: dict[str, int], *, tf32: bool) -> Expected:
        flat = random_inputs(region, bindings)
        source, target = Stored.of(region.input_specs[0], bindings), Stored.of(region.output_specs[0], bindings)
        return Expected(tuple(flat), (OutputGate(target, 2 * source.window(flat[0]), 1e-5),))

    device = SimpleNamespace(
        synchronize=lambda: None, memory=lambda: (1 << 30, 1 << 30), info=SimpleNamespace(l2_bytes=1 << 20)
    )
    monkeypatch.setattr(session, "Device", SimpleNamespace(open=lambda ordinal: device))
    monkeypatch.setattr(session, "Buffer", HostBuffer)
    monkeypatch.setattr(session, "Stream", HostStream)
    monkeypatch.setattr(session, "Module", HostModule)
    monkeypatch.setattr(session, "launch", host_launch)
    monkeypatch.setattr(session, "KernelArgs", list)
    monkeypatch.setattr(session, "Timer", lambda device, evict: SimpleNamespace(evict=evict))
    monkeypatch.setattr(session, "expected", expected)


def check(kernel: Callable[..., None], *, workspaces: tuple[Workspace, ...] = (), deterministic: bool = True) -> Answer:
    KERNELS["k"] = kernel
    arguments = (Input(0), Output(0), *(Scratch(i) for i in range(len(workspaces))), Value(N))
    program = Program((Kernel("k", b"k", (1, 1, 1), 32, 0, arguments),), workspaces, deterministic)
    return session.Session(doubling(N), {}, Setting(0, False, 0)).check(program)


def right(x: int, y: int, n: int) -> None:
    floats(y, n)[:] = 2 * floats(x, n)


def unwritten(x: int, y: int, n: int) -> None:
    floats(y, n - 1)[:] = 2 * floats(x, n - 1)


def past_the_end(x: int, y: int, n: int) -> None:
    right(x, y, n)
    floats(y, n + 1)[n] = 1


def before_the_start(x: int, y: int, n: int) -> None:
    right(x, y, n)
    floats(y - 4, 1)[0] = 1


def into_the_guard_of_an_input(x: int, y: int, n: int) -> None:
    right(x, y, n)
    floats(x, n + 1)[n] = 1


def reads_past_the_end(x: int, y: int, n: int) -> None:
    floats(y, n)[:] = 2 * floats(x, n + 1)[1:]


@pytest.mark.usefixtures("_host")
def test_a_right_kernel_passes() -> None:
    assert check(right)


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (unwritten, "1 of 100 elements are NaN"),
        (past_the_end, "outside of its buffers"),
        (before_the_start, "outside of its buffers"),
        (into_the_guard_of_an_input, "outside of its buffers"),
        (reads_past_the_end, "NaN"),
    ],
)
def test_wrong_kernels_are_refused(kernel: Callable[..., None], reason: str) -> None:
    answer = check(kernel)
    assert isinstance(answer, No) and reason in answer.reason


@pytest.mark.usefixtures("_host")
def test_counters_must_be_left_zero() -> None:
    def counting(reset: bool) -> Callable[..., None]:
        def kernel(x: int, y: int, counter: int, n: int) -> None:
            floats(y, n)[:] = 2 * floats(x, n) + floats(counter, 1)[0]
            floats(counter, 1)[0] = 0 if reset else 1

        return kernel

    zeroed = (Workspace(4, zeroed=True),)
    assert check(counting(True), workspaces=zeroed)
    assert not check(counting(False), workspaces=zeroed)
    assert not check(counting(False), workspaces=zeroed, deterministic=False)


@pytest.mark.usefixtures("_host")
def test_scratch_memory_that_is_not_zeroed_holds_poison() -> None:
    def trusting(x: int, y: int, scratch: int, n: int) -> None:
        floats(y, n)[:] = 2 * floats(x, n) + floats(scratch, 1)[0]

    answer = check(trusting, workspaces=(Workspace(4),))
    assert isinstance(answer, No) and "NaN" in answer.reason


@pytest.mark.usefixtures("_host")
def test_rounding_noise_is_refused_only_from_kernels_that_claim_determinism() -> None:
    turns = iter(range(100))

    def noisy(x: int, y: int, n: int) -> None:
        floats(y, n)[:] = 2 * floats(x, n) * np.float32(1 + 1e-6 * next(turns))

    answer = check(noisy)
    assert isinstance(answer, No) and "deterministic" in answer.reason
    assert check(noisy, deterministic=False)


@pytest.mark.usefixtures("_host")
def test_buffers_are_aligned_no_better_than_promised() -> None:
    tensor = TensorSpec("float32", (N,), (1,), align=16)
    region = doubling(N).with_specs({"x": tensor})
    seen: list[int] = []
    KERNELS["k"] = lambda x, y, n: seen.append(x)
    program = Program((Kernel("k", b"k", (1, 1, 1), 32, 0, (Input(0), Output(0), Value(N))),))
    session.Session(region, {}, Setting(0, False, 0)).check(program)
    assert all(address % 32 == 16 for address in seen) and seen


@pytest.mark.usefixtures("_host")
def test_weights_rotate_over_the_models_weight_bytes_and_the_rest_is_evicted() -> None:
    region = doubling(N).with_specs({"x": spec("float32", (N,), constant=True)})
    seen: list[int] = []
    KERNELS["k"] = lambda x, y, n: seen.append(x)
    made = session.Session(region, {}, Setting(0, False, 10 * 4 * N))
    program = Program((Kernel("k", b"k", (1, 1, 1), 32, 0, (Input(0), Output(0), Value(N))),))
    _, arguments = made._prepared(program, [])
    addresses = [(arguments(0, turn)[0][0], arguments(0, turn)[1][0]) for turn in range(20)]
    assert len({x for x, _ in addresses}) == 10 and len({y for _, y in addresses}) == 2
    source = floats(addresses[0][0], N)
    assert all(np.array_equal(floats(x, N), source) for x, _ in addresses)
