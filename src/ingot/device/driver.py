"""The CUDA driver behind one function, and its error codes as IngotErrors.

``cuda.bindings`` is imported on first use, so that every module of Ingot imports on a machine
without a driver or without ``cuda-bindings``.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ingot.errors import IngotError

_OUT_OF_MEMORY = 2
_NO_DEVICE = 100
_NO_BINARY = 209
_STICKY = frozenset({700, 714, 715, 716, 717, 718, 719, 721})
"""Errors that a kernel left behind; the context is unusable afterwards."""


def installed() -> bool:
    """Whether a driver is installed at all: a tenth of a second cheaper to ask than :func:`available`."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@cache
def cuda() -> ModuleType:
    """The initialised ``cuda.bindings.driver``. Raises IngotError where there is none to use."""
    try:
        driver = import_module("cuda.bindings.driver")  # by name: it ships no type information
    except ImportError:
        raise IngotError("the package cuda-bindings is not installed", fix="pip install 'ingot[cuda]'") from None
    try:
        code = driver.cuInit(0)[0]
    except Exception as error:
        raise IngotError(
            f"no NVIDIA driver could be loaded ({str(error).splitlines()[0]})",
            fix="install the NVIDIA driver, or build the engine with --target cpu",
        ) from None
    if code == _NO_DEVICE:
        raise IngotError("the NVIDIA driver sees no GPU", fix="build the engine with --target cpu")
    if code != 0:
        raise IngotError(f"the NVIDIA driver does not start: {driver.CUresult(code).name}")
    return driver


def entry_point(name: str, version: int) -> Any:
    """The driver's C function ``name`` as it is since CUDA ``version`` (12030 is 12.3), for calls through ctypes.

    Such a call takes less time than the bindings' Python function, which counts where a graph has hundreds of nodes.
    Its arguments are numbers and addresses, its result an error code. Raises IngotError where there is none.
    """
    driver = cuda()
    flags = driver.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_DEFAULT
    address = check(driver.cuGetProcAddress(name.encode(), version, flags), f"looking for {name}")[0]
    if not address:
        raise IngotError(
            f"the NVIDIA driver has no {name}", fix=f"install a driver for CUDA {version // 1000} or later"
        )
    return address


def check(result: tuple[Any, ...], doing: str = "") -> Any:
    """The values of a driver call: None, the one value, or a tuple of them.

    ``doing`` says in a few words what was asked. Raises IngotError when the call failed.
    """
    if result[0] != 0:
        raise _error(int(result[0]), doing)
    if len(result) == 2:
        return result[1]
    return None if len(result) == 1 else result[1:]


def _error(code: int, doing: str) -> IngotError:
    driver = cuda()
    try:
        result = driver.CUresult(code)
        name = result.name
        text = driver.cuGetErrorString(result)[1]
        text = text.decode() if text else ""
    except ValueError:  # a driver newer than the bindings
        name, text = f"CUDA error {code}", ""
    reason = f"{doing or 'a driver call'} failed: {name} ({text})"
    if code == _OUT_OF_MEMORY:
        return IngotError(reason, fix="free device memory held by other programs, or lower the profile's max shape")
    if code == _NO_BINARY:
        return IngotError(reason, fix="rebuild the engine for this GPU")
    if code in _STICKY:
        return IngotError(
            f"{reason}: a kernel on this device failed earlier and its CUDA context is lost",
            fix="restart the process; run it under compute-sanitizer to find the kernel",
        )
    return IngotError(reason)


def available() -> bool:
    """Whether a GPU can be used in this process."""
    try:
        return int(check(cuda().cuDeviceGetCount())) > 0
    except IngotError:
        return False
