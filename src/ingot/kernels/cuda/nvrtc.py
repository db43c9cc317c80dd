"""CUDA C++ to machine code with NVRTC: no GPU needed, content-addressed on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ingot.errors import IngotError
from ingot.files import write_atomically
from ingot.kernels import store
from ingot.kernels.api import Target
from ingot.kernels.cuda.prelude import PRELUDE

_OPTIONS = ("--std=c++17", "--diag-suppress=177", "--ptxas-options=--verbose")
_SUMMARY = re.compile(
    r"Compiling entry function '(?P<entry>[^']+)'(?P<text>.*?)(?=Compiling entry function|\Z)", re.DOTALL
)


@dataclass(frozen=True)
class CompiledCuda:
    """Machine code of one source, and what the compiler says of one entry of it."""

    cubin: bytes
    registers: int
    shared: int
    """Static shared memory, bytes."""
    spills: int
    """Bytes of registers spilt to memory, stores plus loads."""


def compile_cuda(
    source: str, entry: str, target: Target, *, options: Sequence[str] = (), specific: bool = False
) -> CompiledCuda:
    """Compiles ``source`` (put behind the prelude) for ``target``; ``entry`` is an ``extern "C"`` kernel of it.

    ``specific`` compiles for the exact architecture (``sm_90a``: wgmma, setmaxnreg). Raises IngotError
    when NVRTC is missing or too old for the target, AssertionError when generated code does not compile.
    """
    arch = f"{target.name}{'a' if specific else ''}"
    flags = (f"--gpu-architecture={arch}", *_OPTIONS, *options)
    version = nvrtc_version()
    key = hashlib.sha256(repr((PRELUDE, source, entry, flags, version)).encode()).hexdigest()
    path = store.path_of(key, ".nvrtc")
    kept = _kept(path)
    if kept is not None:
        return kept
    cubin, log = _compile(PRELUDE + '#line 1 "kernel"\n' + source, flags)
    result = _summary(log, entry, cubin)
    summary = _Kept(store.put(cubin), result.registers, result.shared, result.spills)
    write_atomically(path, msgspec.msgpack.encode(summary))
    return result


class _Kept(msgspec.Struct, frozen=True):
    """A :class:`CompiledCuda` with the digest of its code."""

    code: str
    registers: int
    shared: int
    spills: int


def _kept(path: Path) -> CompiledCuda | None:
    """What was compiled before, or None when it is missing or damaged."""
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    code = store.get(found.code)
    return None if code is None else CompiledCuda(code, found.registers, found.shared, found.spills)


@lru_cache(maxsize=1)
def nvrtc_version() -> str:
    """Version of the NVRTC that is installed, such as ``13.0``. Raises IngotError when there is none."""
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise IngotError(f"NVRTC cannot be loaded: {error}", fix="pip install nvidia-cuda-nvrtc") from None
    if int(status) != 0:
        raise IngotError("NVRTC does not answer", fix="pip install nvidia-cuda-nvrtc")
    return f"{major}.{minor}"


def _compile(text: str, flags: Sequence[str]) -> tuple[bytes, str]:
    from cuda.bindings import nvrtc

    status, program = nvrtc.nvrtcCreateProgram(text.encode(), b"prelude", 0, [], [])
    assert int(status) == 0, status
    try:
        encoded = [flag.encode() for flag in flags]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
        if "invalid value for --gpu-architecture" in log:
            raise IngotError(
                f"NVRTC {nvrtc_version()} cannot compile for {flags[0].partition('=')[2]}",
                fix="install a newer nvidia-cuda-nvrtc or choose another --target",
            )
        assert int(status) == 0, f"generated CUDA does not compile:\n{log}"
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(size_of: Any, get: Any, program: Any) -> bytes:
    status, size = size_of(program)
    assert int(status) == 0, status
    data = bytearray(size)
    buffer = bytes(data)
    (status,) = get(program, buffer)
    assert int(status) == 0, status
    return buffer.rstrip(b"\0") if get.__name__.endswith("Log") else buffer


def _summary(log: str, entry: str, cubin: bytes) -> CompiledCuda:
    found = next((m["text"] for m in _SUMMARY.finditer(log) if m["entry"] == entry), None)
    assert entry.encode() in cubin, f"no kernel {entry!r} in the source; the compiler said:\n{log}"

    def number(pattern: str) -> int:
        match = re.search(pattern, found or "")
        return int(match[1]) if match else 0

    spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return CompiledCuda(cubin, number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), spills)
