"""Runs generated CUDA C++ on the CPU: compiled by g++ behind a small runtime, threads as fibres.

Every kernel family's numerics are tested this way without a GPU; the blocks of a cluster run together.
``__syncthreads``, warp shuffles, votes, static and dynamic shared memory and atomics work; inline PTX does not
(the prelude's ``pdl_wait``, conversions and the like have host forms, and host_mma.h has those of mma.sync kernels).
Reads and writes are strided as the specs say, outputs start as NaN, and bytes before and after every buffer are
checked.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from support.regions import assert_close
from support.strided import bound, poisoned, scatter, window

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Region
from ingot.kernels.api import Input, Kernel, Null, Output, Program, Scratch, Value, Variant
from ingot.kernels.cuda.prelude import PRELUDE
from ingot.kernels.cuda.source import Source

_Number = ctypes.c_void_p | ctypes.c_int | ctypes.c_longlong
_GUARD = 256
_FLAGS = ("-std=c++17", "-O1", "-fwrapv", "-ffp-contract=off", "-fPIC", "-shared", "-w")
_WAITING = ("__sync", "__shfl", "_sync(")
_RUNTIME = Path(__file__).with_name("host_runtime.h")
_TENSOR_CORES = Path(__file__).with_name("host_mma.h")
_PROBLEMS = {
    1: "a barrier in a kernel whose text shows none",
    2: "threads of a block wait for each other for ever",
    3: "the kernel has another number of parameters than the launch passes",
}

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def run_on_host(
    program_source: str,
    kernel: Kernel | Program,
    region: Region,
    inputs: Sequence[np.ndarray],
    bindings: Bindings | None = None,
) -> list[np.ndarray]:
    """Outputs of a Region (logical shapes, storage types) computed by its generated source on the CPU.

    ``program_source``: the source without prelude. A bare Kernel is a Program of one kernel without workspaces.
    """
    program = kernel if isinstance(kernel, Program) else Program((kernel,))
    bindings = bindings or {}
    library = host_library(program_source, tuple(dict.fromkeys(k.entry for k in program.kernels)))
    out_specs = [bound(s, bindings) for s in region.output_specs]
    ins = [Guarded(scatter(np.asarray(a), bound(s, bindings))) for a, s in zip(inputs, region.input_specs, strict=True)]
    outs = [Guarded(poisoned(s)) for s in out_specs]
    scratch = [
        Guarded(np.full(max(evaluate(w.bytes, bindings), 1), 0 if w.zeroed else 0xFF, np.uint8))
        for w in program.workspaces
    ]
    before = [g.content.tobytes() for g in ins]
    fibred = _is_fibred(program_source)
    for step in program.kernels:
        grid = [evaluate(d, bindings) for d in step.grid]
        numbers = [_argument(a, ins, outs, scratch, bindings) for a in step.arguments]
        together = grid[0] if step.cooperative else step.cluster
        _launch(library, step.entry, numbers, grid, step.block, fibred, together)
    for guarded in (*ins, *outs, *scratch):
        guarded.check()
    assert [g.content.tobytes() for g in ins] == before, "a kernel changed an input"
    for need, guarded in zip(program.workspaces, scratch, strict=True):
        assert not need.zeroed or not guarded.content.any(), "a zeroed workspace was left dirty"
    return [window(g.content, s).copy() for g, s in zip(outs, out_specs, strict=True)]


def check_on_host(
    variant: Variant,
    kernel: Kernel,
    source: Source,
    region: Region,
    inputs: Sequence[np.ndarray],
    wanted: np.ndarray,
    bindings: Bindings | None = None,
    *,
    depth: int,
) -> None:
    """Runs ``source`` and compares the Region's only output with ``wanted``; a difference names the variant."""
    (got,) = run_on_host(source.text, kernel, region, inputs, bindings)
    try:
        assert_close(got, wanted, dtype=region.output_specs[0].dtype, depth=depth)
    except AssertionError as error:
        raise AssertionError(f"{variant}: {error}") from None


def launch_on_host(
    source: str, entries: Sequence[str], entry: str, blocks: int, threads: int, args: Sequence[tuple[int, int]]
) -> None:
    """One launch of the kernel ``entry`` of ``source``, which has ``entries``; arguments are values and their bytes."""
    library = host_library(source, tuple(entries))
    numbers = [(ctypes.c_int if size == 4 else ctypes.c_longlong)(value) for value, size in args]
    _launch(library, entry, numbers, (blocks, 1, 1), threads, _is_fibred(source), 1)


def _is_fibred(source: str) -> bool:
    """Whether threads wait for each other, so that each needs a stack of its own."""
    return any(word in source for word in _WAITING)


def _launch(
    library: ctypes.CDLL,
    entry: str,
    numbers: Sequence[_Number],
    grid: Sequence[int],
    threads: int,
    fibred: bool,
    together: int,
) -> None:
    addresses = (ctypes.c_void_p * max(len(numbers), 1))(*(ctypes.addressof(n) for n in numbers))
    run = getattr(library, f"ingot_run_{entry}")
    status = run(addresses, len(numbers), (ctypes.c_uint * 3)(*grid), threads, int(fibred), together)
    assert status == 0, _PROBLEMS[status]


class Guarded:
    """A flat array at a 256-byte boundary between two runs of 0xFF bytes."""

    def __init__(self, like: np.ndarray) -> None:
        size = like.nbytes
        store = np.full(size + 3 * _GUARD, 0xFF, np.uint8)
        start = -store.ctypes.data % _GUARD + _GUARD
        self.lead, self.tail = store[:start], store[start + size :]
        self.content = store[start : start + size].view(like.dtype)
        self.content[...] = like

    def check(self) -> None:
        """Asserts that nothing was written outside."""
        assert (self.lead == 0xFF).all(), "a kernel wrote before a buffer"
        assert (self.tail == 0xFF).all(), "a kernel wrote past a buffer"


def _argument(
    argument: object, ins: list[Guarded], outs: list[Guarded], scratch: list[Guarded], bindings: Bindings
) -> _Number:
    match argument:
        case Input(index):
            return ctypes.c_void_p(ins[index].content.ctypes.data)
        case Output(index):
            return ctypes.c_void_p(outs[index].content.ctypes.data)
        case Scratch(index):
            return ctypes.c_void_p(scratch[index].content.ctypes.data)
        case Value(dim, size):
            return (ctypes.c_int if size == 4 else ctypes.c_longlong)(evaluate(dim, bindings))
        case Null():
            return ctypes.c_void_p(None)
    raise AssertionError(argument)


@lru_cache(maxsize=256)
def host_library(source: str, entries: tuple[str, ...]) -> ctypes.CDLL:
    """``source`` behind the prelude, compiled for the CPU, with a function that launches each of its ``entries``."""
    starts = "".join(
        f"static void ingot_start_{e}(void** p) {{ ingot_apply({e}, p); }}\n"
        f'extern "C" int ingot_run_{e}(void** p, int count, const unsigned* grid, unsigned threads, int fibred, '
        f"unsigned together) {{\n  return count != ingot_arity({e}) ? 3 : "
        f"ingot_launch(ingot_start_{e}, p, grid, threads, fibred, together);\n}}\n"
        for e in entries
    )
    runtime = _RUNTIME.read_text() + (_TENSOR_CORES.read_text() if "load_matrices" in source else "")
    text = f'{runtime}\n{PRELUDE}\n#line 1 "kernel"\n{source}\n{starts}'
    key = hashlib.sha256(repr((text, _FLAGS)).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / "ingot-host-kernels"
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            code, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            code.write_text(text)
            done = subprocess.run(
                ["g++", *_FLAGS, str(code), "-o", str(made)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"the host compiler refuses the kernel:\n{done.stderr[:4000]}\n{source}"
            made.replace(path)
    return ctypes.CDLL(str(path))
