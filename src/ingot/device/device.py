"""One GPU: its facts, and its primary context made current."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ingot.device.driver import check, cuda
from ingot.errors import IngotError


@dataclass(frozen=True)
class DeviceInfo:
    """What is known of a GPU without measuring."""

    name: str
    cc: int
    """Compute capability times ten."""
    sms: int
    l2_bytes: int
    memory_bytes: int
    clock_khz: int
    memory_clock_khz: int
    bus_bits: int
    """Width of the memory bus."""
    shared_per_block: int
    """Most shared memory that one block can opt in to, bytes."""
    driver: int
    """CUDA version of the driver: 13000 is 13.0."""

    @property
    def target(self) -> str:
        """NVIDIA's name of the architecture, such as ``sm_90``."""
        return f"sm_{self.cc}"

    @property
    def bandwidth(self) -> float:
        """Bytes per second on paper: two transfers a memory clock over the whole bus."""
        return 2.0 * self.memory_clock_khz * 1e3 * self.bus_bits / 8


class Device:
    """One GPU and its primary context (shared with every other user of the CUDA runtime here)."""

    def __init__(self, ordinal: int) -> None:
        """Retains the primary context and makes it current. Use :meth:`open`."""
        driver = cuda()
        count = int(check(driver.cuDeviceGetCount()))
        if not 0 <= ordinal < count:
            raise IngotError(f"there is no GPU number {ordinal}: the driver sees {count}")
        self.ordinal = ordinal
        self._device = check(driver.cuDeviceGet(ordinal))
        self._context: Any = check(driver.cuDevicePrimaryCtxRetain(self._device), f"opening GPU {ordinal}")
        self._set_current = driver.cuCtxSetCurrent
        self.activate()
        self.info = _info(self._device)

    @staticmethod
    def open(ordinal: int = 0) -> Device:
        """The device ``ordinal``, opened once per process and current in the calling thread.

        Raises IngotError without a driver or without such a device.
        """
        device = _opened(ordinal)
        device.activate()
        return device

    def activate(self) -> None:
        """Make the context current in the calling thread (needed once per thread)."""
        check(self._set_current(self._context))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""
        free, total = check(cuda().cuMemGetInfo())
        return int(free), int(total)

    def synchronize(self) -> None:
        """Wait for everything submitted to the device. Raises IngotError when a kernel failed."""
        check(cuda().cuCtxSynchronize(), "running kernels")


@cache
def _opened(ordinal: int) -> Device:
    return Device(ordinal)


def _info(device: Any) -> DeviceInfo:
    driver = cuda()
    attributes = driver.CUdevice_attribute

    def number(name: str) -> int:
        return int(check(driver.cuDeviceGetAttribute(getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}"), device)))

    name = check(driver.cuDeviceGetName(256, device))
    return DeviceInfo(
        name=bytes(name).split(b"\0")[0].decode(errors="replace"),
        cc=10 * number("COMPUTE_CAPABILITY_MAJOR") + number("COMPUTE_CAPABILITY_MINOR"),
        sms=number("MULTIPROCESSOR_COUNT"),
        l2_bytes=number("L2_CACHE_SIZE"),
        memory_bytes=int(check(driver.cuDeviceTotalMem(device))),
        clock_khz=number("CLOCK_RATE"),
        memory_clock_khz=number("MEMORY_CLOCK_RATE"),
        bus_bits=number("GLOBAL_MEMORY_BUS_WIDTH"),
        shared_per_block=number("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        driver=int(check(driver.cuDriverGetVersion())),
    )
