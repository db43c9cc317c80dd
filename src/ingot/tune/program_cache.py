"""Compiled Programs on disk, found without starting a compiler.

The compilers' own cache is addressed by generated source; generating it still costs an import of
Triton and a process. This one is addressed by what the source is made from: the canonical
Region, the variant, the target, the compilers and Ingot's kernel sources. A warm build reads only it, and
the machine code it refers to (``kernels.store``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ingot.files import write_atomically
from ingot.graph.dims import Dim
from ingot.graph.region import Region
from ingot.kernels import store
from ingot.kernels.api import (
    Argument,
    Input,
    Kernel,
    Null,
    Output,
    Pdl,
    Program,
    Scratch,
    Target,
    TensorMap,
    Value,
    Workspace,
)

_FORMAT = 6
SUFFIX = ".program"


class _Map(msgspec.Struct, frozen=True):
    dtype: str
    dims: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    box: tuple[int, ...]
    swizzle: int
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    steps: tuple[int, ...]


class _Argument(msgspec.Struct, frozen=True):
    kind: str
    index: int = 0
    dim: Dim = 0
    bytes: int = 0
    map: _Map | None = None


class _Kernel(msgspec.Struct, frozen=True):
    entry: str
    code: str
    """Digest of its machine code."""
    grid: tuple[Dim, Dim, Dim]
    block: int
    shared: int
    arguments: list[_Argument]
    pdl: Pdl
    cluster: int
    cooperative: bool


class _Workspace(msgspec.Struct, frozen=True):
    bytes: Dim
    zeroed: bool


class _Header(msgspec.Struct, frozen=True):
    kernels: list[_Kernel]
    workspaces: list[_Workspace]
    deterministic: bool
    call: bytes
    kind: str
    """Kind of the Region, and the variant: for listings."""
    variant: str
    target: str
    sha256: str


def path_of(region: Region, variant: str, target: Target, compilers: str) -> Path:
    """File of one compiled variant."""
    text = repr((_FORMAT, region.signature, variant, target.code, compilers))
    key = hashlib.sha256(text.encode()).hexdigest()
    return store.path_of(key, SUFFIX)


def load(path: Path) -> Program | None:
    """The Program at ``path``; None when there is none, or a damaged one. Marks it as used for pruning."""
    try:
        header = msgspec.json.decode(path.read_bytes(), type=_Header)
        if header.sha256 != _digest(header):
            return None
        path.touch()
    except (OSError, msgspec.DecodeError):
        return None
    kernels: list[Kernel] = []
    for kernel in header.kernels:
        arguments = tuple(_argument(a) for a in kernel.arguments)
        cubin = store.get(kernel.code)
        if cubin is None:
            return None
        sizes = (kernel.grid, kernel.block, kernel.shared)
        kernels.append(Kernel(kernel.entry, cubin, *sizes, arguments, kernel.pdl, kernel.cluster, kernel.cooperative))
    workspaces = tuple(Workspace(w.bytes, w.zeroed) for w in header.workspaces)
    return Program(tuple(kernels), workspaces, header.deterministic, header.call)


def save(path: Path, program: Program, region: Region, variant: str, target: Target) -> None:
    """Keep ``program`` at ``path``."""
    header = _Header(
        kernels=[_encoded_kernel(kernel) for kernel in program.kernels],
        workspaces=[_Workspace(w.bytes, w.zeroed) for w in program.workspaces],
        deterministic=program.deterministic,
        call=program.call,
        kind=region.kind.value,
        variant=variant,
        target=target.name,
        sha256="",
    )
    header = msgspec.structs.replace(header, sha256=_digest(header))
    write_atomically(path, msgspec.json.encode(header))


@dataclass(frozen=True)
class Described:
    """What a file holds, without the machine code."""

    target: str
    kind: str
    variant: str
    codes: tuple[str, ...]
    """Digests of its kernels' machine code."""


def describe(path: Path) -> Described | None:
    """What the file at ``path`` holds, or None when it is damaged."""
    try:
        header = msgspec.json.decode(path.read_bytes(), type=_Header)
    except (OSError, msgspec.DecodeError):
        return None
    return Described(header.target, header.kind, header.variant, tuple(kernel.code for kernel in header.kernels))


def _digest(header: _Header) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(header, sha256=""))).hexdigest()


def _encoded_kernel(k: Kernel) -> _Kernel:
    arguments = [_encoded(a) for a in k.arguments]
    code = store.put(k.cubin)
    return _Kernel(k.entry, code, k.grid, k.block, k.shared, arguments, k.pdl, k.cluster, k.cooperative)


def _encoded(argument: Argument) -> _Argument:
    match argument:
        case Input(index):
            return _Argument("input", index)
        case Output(index):
            return _Argument("output", index)
        case Scratch(index):
            return _Argument("scratch", index)
        case Value(dim, size):
            return _Argument("value", dim=dim, bytes=size)
        case Null():
            return _Argument("null")
        case TensorMap():
            tensor = _encoded(argument.tensor)
            fields = {name: getattr(argument, name) for name in _Map.__struct_fields__}
            return _Argument(f"map {tensor.kind}", tensor.index, map=_Map(**fields))


def _argument(a: _Argument) -> Argument:
    if a.map is not None:
        tensor = _argument(_Argument(a.kind.removeprefix("map "), a.index))
        assert isinstance(tensor, Input | Output | Scratch), a.kind
        return TensorMap(tensor, **msgspec.structs.asdict(a.map))
    match a.kind:
        case "input":
            return Input(a.index)
        case "output":
            return Output(a.index)
        case "scratch":
            return Scratch(a.index)
        case "value":
            return Value(a.dim, a.bytes)
    return Null()
