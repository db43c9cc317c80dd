"""Compiles generated Triton source ahead of time: no GPU, no PyTorch, content-addressed and cached on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ingot import env
from ingot.errors import IngotError
from ingot.files import write_atomically
from ingot.kernels import store
from ingot.kernels.api import Target

_FORMAT = 3
"""Version of the cache entries; raise it when what is stored changes."""


@dataclass(frozen=True)
class Compiled:
    """One compiled kernel and what a launch needs to know of it."""

    cubin: bytes
    entry: str
    shared: int
    """Dynamic shared memory, bytes."""
    threads: int
    nulls: int
    """Trailing pointer parameters that Triton added (scratch memory, unused): pass null pointers."""


@lru_cache(maxsize=1)
def compiler_version() -> str:
    """Triton's version: a part of every cache key."""
    import triton

    return f"triton-{triton.__version__}"


def load_source(source: str) -> ModuleType:
    """Imports generated source from a file named by its hash (Triton reads the text back through it)."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:32]
    path = env.cache_dir() / "source" / f"k{digest}.py"
    if not path.exists():
        write_atomically(path, source.encode())
    spec = importlib.util.spec_from_file_location(f"ingot_generated_{digest}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    previous, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = previous
    return module


def compile_source(
    source: str,
    function: str,
    signature: Mapping[str, str],
    constants: Mapping[str, Any] | None = None,
    *,
    num_warps: int,
    num_stages: int,
    target: Target,
    aligned: frozenset[str] = frozenset(),
) -> Compiled:
    """Machine code of ``function`` in ``source`` for ``target``.

    ``signature`` gives Triton's type of each run-time parameter in order (``*fp16``, ``i32``);
    ``constants`` the values of ``tl.constexpr`` parameters; ``aligned`` names pointers and integers
    that are certainly multiples of 16. Raises IngotError when Triton refuses the kernel.
    """
    constants = dict(constants or {})
    options = (
        _FORMAT, compiler_version(), function, tuple(signature.items()), tuple(constants.items()), num_warps,
        num_stages, target.cc, tuple(sorted(aligned)),
    )  # fmt: skip
    key = hashlib.sha256(repr(options).encode() + b"\0" + source.encode()).hexdigest()
    path = store.path_of(key, ".triton")
    cached = _read(path)
    if cached is not None:
        return cached
    fresh = _compile(source, function, signature, constants, num_warps, num_stages, target, aligned)
    header = {"entry": fresh.entry, "shared": fresh.shared, "threads": fresh.threads, "nulls": fresh.nulls}
    write_atomically(path, json.dumps(header | {"code": store.put(fresh.cubin)}).encode())
    return fresh


def _read(path: Path) -> Compiled | None:
    """A cache entry, or None when it is missing or damaged."""
    try:
        header = json.loads(path.read_bytes())
        cubin = store.get(header.pop("code"))
        return None if cubin is None else Compiled(cubin=cubin, **header)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _compile(
    source: str,
    function: str,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    num_warps: int,
    num_stages: int,
    target: Target,
    aligned: frozenset[str],
) -> Compiled:
    kernel = ptx_and_kernel(source, function, signature, constants, num_warps, num_stages, target, aligned)
    metadata, ptx = kernel.metadata, kernel.asm["ptx"]
    entry = re.search(r"\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)", ptx)
    assert entry is not None, "Triton emitted no kernel"
    parameters = len(re.findall(r"\.param\b", entry.group(2)))
    nulls = parameters - len(signature)
    assert 0 <= nulls <= 2 and not getattr(metadata, "global_scratch_size", 0), f"unknown Triton ABI: {entry.group(0)}"
    return Compiled(kernel.asm["cubin"], entry.group(1), int(metadata.shared), int(metadata.num_warps) * 32, nulls)


def ptx_and_kernel(
    source: str,
    function: str,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    num_warps: int,
    num_stages: int,
    target: Target,
    aligned: frozenset[str],
) -> Any:
    """Triton's own compiled-kernel object (its ``asm`` holds the PTX), made without any cache."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    with knobs.runtime.scope():
        knobs.runtime.interpret = False
        kernel = getattr(load_source(source), function)
    names = list(kernel.arg_names)
    types = {name: signature.get(name, "constexpr") for name in names}
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in sorted(aligned) if name in signature}
    ast_source = ASTSource(kernel, types, dict(constants), divisible)
    # Line information would put the path of the cache folder into the cubin: builds must be reproducible.
    with knobs.compilation.scope(), knobs.cache.scope(), tempfile.TemporaryDirectory() as folder:
        knobs.compilation.disable_line_info = True
        knobs.cache.dir = folder
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
        try:
            return triton.compile(ast_source, target=GPUTarget("cuda", target.cc, 32), options=options)
        except Exception as error:  # Triton raises whatever its passes raise
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise IngotError(f"Triton cannot compile a kernel for {target.name}: {last[:300]}") from error
