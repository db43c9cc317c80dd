"""Machine code on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingot.device.driver import check, cuda
from ingot.errors import IngotError

_STATIC_LIMIT = 48 * 1024
"""Dynamic shared memory that a kernel gets without asking."""
_PORTABLE_CLUSTER = 8
_NOT_FOUND = 500


@dataclass(frozen=True)
class Function:
    """A kernel ready to launch. Keeps its module loaded."""

    handle: Any
    name: str
    shared: int
    """Dynamic shared memory of every launch, bytes."""
    cluster: int
    """Blocks per cluster along x."""
    cooperative: bool
    """Whether all blocks must be on the device at the same time."""
    module: Module


class Module:
    """One loaded cubin."""

    def __init__(self, cubin: bytes | memoryview) -> None:
        """Raises IngotError when the code is for another architecture or malformed."""
        driver = cuda()
        # A copy, because the loader reads the ELF image through aligned pointers.
        self._handle = check(driver.cuModuleLoadData(bytes(cubin)), "loading a cubin")
        self._functions: dict[tuple[str, int, int, bool], Function] = {}
        self._unload = driver.cuModuleUnload

    def function(self, entry: str, shared: int = 0, cluster: int = 1, *, cooperative: bool = False) -> Function:
        """The kernel ``entry``, allowed ``shared`` bytes of dynamic shared memory and such clusters.

        ``cooperative``: its blocks wait for each other.

        Raises IngotError when there is no such entry, or the device has too little shared memory.
        """
        key = (entry, shared, cluster, cooperative)
        if key not in self._functions:
            self._functions[key] = self._load(*key)
        return self._functions[key]

    def _load(self, entry: str, shared: int, cluster: int, cooperative: bool) -> Function:
        driver = cuda()
        result = driver.cuModuleGetFunction(self._handle, entry.encode())
        if result[0] == _NOT_FOUND:
            raise IngotError(f"the cubin has no kernel called {entry!r}", node=entry)
        handle = check(result, f"loading kernel {entry}")
        attributes = driver.CUfunction_attribute
        if shared > _STATIC_LIMIT:
            wanted = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver.cuFuncSetAttribute(handle, wanted, shared), f"giving {entry} {shared} bytes of shared memory")
        if cluster > _PORTABLE_CLUSTER:
            allowed = attributes.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            check(driver.cuFuncSetAttribute(handle, allowed, 1), f"giving {entry} clusters of {cluster}")
        return Function(handle, entry, shared, cluster, cooperative, self)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._unload(self._handle)
