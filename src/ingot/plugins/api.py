"""What a plugin is: an op with everything that a build and a run need of it.

A plugin names its op, says which attributes it takes and what its results look like, has a reference in NumPy,
and one or more ways to run on a GPU: kernels in CUDA C++ or Triton, whose machine code goes into the engine, or
a Python function that submits its own work to the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from ingot.errors import IngotError
from ingot.graph.dims import Bindings, Dim, Shape
from ingot.graph.region import Attr

Array = np.ndarray[Any, Any]
Attrs = Mapping[str, Attr]


class Layout(StrEnum):
    """How a plugin's kernels want the elements of their tensors to lie. Copies are inserted where they do not."""

    ROW_MAJOR = "row_major"
    """Dense, the last dimension innermost."""
    CHANNELS_LAST = "channels_last"
    """Dense, dimension 1 innermost, for tensors of rank 3 and more; others row-major."""
    ANY = "any"
    """As they come: the kernels follow the strides in :class:`TensorInfo`."""


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor when an engine is built. Dimensions are ints or expressions (a str)."""

    dtype: str
    shape: Shape
    strides: Shape = ()
    """In elements; empty where only type and shape are known yet (in the shape rule)."""
    align: int = 1
    """Bytes that the address of the first element is certainly a multiple of."""


@dataclass(frozen=True)
class Node:
    """One use of the op. Absent optional inputs and outputs are None."""

    inputs: tuple[TensorInfo | None, ...]
    outputs: tuple[TensorInfo | None, ...]
    """Empty in the shape rule."""
    attrs: Attrs
    """Every attribute of the schema, defaults filled in."""

    def input(self, index: int) -> TensorInfo:
        """Input ``index``. Raises IngotError where it is absent."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise IngotError(f"input {index} is missing")
        return found

    def output(self, index: int) -> TensorInfo:
        """Output ``index``. Raises IngotError where it is absent."""
        found = self.outputs[index] if index < len(self.outputs) else None
        if found is None:
            raise IngotError(f"output {index} is missing")
        return found

    def number(self, name: str) -> float:
        """A numeric attribute."""
        return float(self.attrs[name])  # type: ignore[arg-type]

    def integer(self, name: str) -> int:
        """An integer attribute."""
        return int(self.attrs[name])  # type: ignore[arg-type]

    def integers(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(int(v) for v in self.attrs[name])  # type: ignore[union-attr]


class AttrType(StrEnum):
    """Types of attributes."""

    INT = "int"
    FLOAT = "float"
    STRING = "string"
    INTS = "ints"
    FLOATS = "floats"


@dataclass(frozen=True)
class Attribute:
    """One attribute of the schema. Without a ``default`` a node must have it."""

    type: AttrType
    default: Attr | None = None

    def fits(self, value: Attr) -> bool:
        """Whether ``value`` is of this type."""
        match self.type:
            case AttrType.INT:
                return isinstance(value, int)
            case AttrType.FLOAT:
                return isinstance(value, int | float)
            case AttrType.STRING:
                return isinstance(value, str)
            case AttrType.INTS:
                return isinstance(value, tuple) and all(isinstance(v, int) for v in value)
            case _:
                return isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)


@dataclass(frozen=True)
class In:
    """Kernel argument: address of input ``index``, null where it is absent."""

    index: int


@dataclass(frozen=True)
class Out:
    """Kernel argument: address of output ``index``, null where it is absent."""

    index: int


@dataclass(frozen=True)
class Scratch:
    """Kernel argument: address of workspace ``index``."""

    index: int


@dataclass(frozen=True)
class Number:
    """Kernel argument: an integer, computed from the input dimensions when shapes are bound."""

    value: Dim
    bytes: int = 8
    """8 (``long long``, Triton's i64) or 4 (``int``, i32)."""


Argument = In | Out | Scratch | Number


@dataclass(frozen=True)
class CudaLaunch:
    """One launch of a kernel in CUDA C++.

    ``source`` stands behind Ingot's prelude (``half_t``, ``bf16_t``, ``load_vec``, ``pdl_wait`` ...) and includes no
    header. Blocks are one-dimensional.
    """

    source: str
    entry: str
    """Name of an ``extern "C"`` kernel in ``source``."""
    arguments: tuple[Argument, ...]
    grid: tuple[Dim, Dim, Dim]
    block: int
    shared: int = 0
    """Bytes of dynamic shared memory."""
    waits: bool = False
    """Whether every block calls ``pdl_wait()`` before it touches what another kernel writes or reads: such a
    kernel may start before the one in front of it has ended."""


@dataclass(frozen=True)
class TritonLaunch:
    """One launch of a Triton kernel, compiled ahead of time.

    ``source`` is a whole module with the kernel ``function`` in it (:func:`ingot.plugins.triton.source_of` makes one
    from a function). ``parameters`` are its run-time parameters in order, ``constants`` the ``tl.constexpr`` ones.
    """

    source: str
    function: str
    parameters: tuple[tuple[str, Argument], ...]
    grid: tuple[Dim, Dim, Dim]
    constants: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2


@dataclass(frozen=True)
class Work:
    """What one tactic launches: kernels one after another, and the bytes of their workspaces."""

    launches: tuple[CudaLaunch | TritonLaunch, ...]
    workspaces: tuple[Dim, ...] = ()
    deterministic: bool = True
    """Whether two runs give the same bits."""


def always(node: Node) -> str:
    """Accepts every node."""
    return ""


@dataclass(frozen=True)
class Kernels:
    """A way to run on the device: machine code, made when the engine is built. It needs no plugin at run time."""

    name: str
    """Of the implementation, such as ``cuda``; unique within the plugin."""
    make: Callable[[Node, Mapping[str, int]], Work]
    """The launches for a node under one tactic, valid for every binding of its symbolic dimensions."""
    tactics: tuple[Mapping[str, int], ...] = ({},)
    """Variants to measure, the likeliest first."""
    accepts: Callable[[Node], str] = always
    """Why this implementation cannot run a node; empty where it can."""


class DeviceTensor(Protocol):
    """A dense row-major tensor in device memory, alive during the call. Also speaks DLPack."""

    @property
    def pointer(self) -> int:
        """Address of the first element."""
        ...

    @property
    def dtype(self) -> str:
        """Such as ``float32``."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, all known."""
        ...

    @property
    def __cuda_array_interface__(self) -> dict[str, object]: ...

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


Tensors = Sequence[DeviceTensor | None]


@dataclass(frozen=True)
class OnStream:
    """A way to run on the device: a Python function that submits work to the stream and does not wait for it.

    Its place is between two CUDA graphs, so it costs a launch more; values stay in device memory. The engine holds
    the plugin's name, version and attributes: it can be loaded only where the plugin is.
    """

    name: str
    run: Callable[[Attrs, Tensors, Tensors, int], None]
    """(attributes, inputs, outputs to be filled, handle of the CUDA stream)."""
    accepts: Callable[[Node], str] = always


def _no_samples(node: Node, bindings: Bindings, generator: np.random.Generator) -> Sequence[Array] | None:
    return None


@dataclass(frozen=True)
class Plugin:
    """One op. Two plugins are the same in an engine when domain, name and version are."""

    domain: str
    """Of the ONNX node. The empty one is ONNX's own: such a plugin takes over a standard op."""
    name: str
    version: str
    shapes: Callable[[Node], Sequence[TensorInfo]]
    """Types and shapes of the outputs from those of the inputs. Dimensions may be expressions: combine them with
    ``ingot.graph.dims`` (add, mul, floordiv, ceildiv, maximum)."""
    reference: Callable[[Attrs, Sequence[Array | None]], Sequence[Array]]
    """The op in NumPy: what the kernels are checked against, what ``--target cpu`` and the simulator run.
    16-bit floats come in as float32; results are rounded to the declared types."""
    implementations: tuple[Kernels | OnStream, ...] = ()
    """In order of preference where nothing is measured."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    inputs: tuple[int, int] = (1, 1)
    """Fewest and most inputs."""
    dtypes: frozenset[str] = frozenset()
    """Types that tensors on the device may have; empty for all. Others go to the reference on the host."""
    layout: Layout = Layout.ROW_MAJOR
    tolerance: float | None = None
    """Largest relative error of the kernels; by the least precise type where it is None."""
    samples: Callable[[Node, Bindings, np.random.Generator], Sequence[Array] | None] = _no_samples
    """Inputs for measuring and checking, in C order, where random numbers will not do."""

    @property
    def op(self) -> str:
        """Domain and name, as messages call it."""
        return f"{self.domain}.{self.name}" if self.domain else self.name

    def __post_init__(self) -> None:
        names = [way.name for way in self.implementations]
        if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
            raise IngotError(
                f"implementations are called {', '.join(map(repr, names))}",
                node=f"plugin {self.op}",
                fix="give each an identifier of its own as name",
            )
        if self.layout is not Layout.ROW_MAJOR and any(isinstance(way, OnStream) for way in self.implementations):
            raise IngotError(
                f"a Python function sees row-major tensors only, but the layout is {self.layout.value}",
                node=f"plugin {self.op}",
                fix="use Layout.ROW_MAJOR",
            )

    def filled(self, given: Attrs, where: str) -> dict[str, Attr]:
        """``given`` with defaults. Raises IngotError for an attribute that is missing, unknown or of another type."""
        found: dict[str, Attr] = {}
        for name, attribute in self.attributes.items():
            value = given.get(name, attribute.default)
            if value is None:
                raise IngotError(f"attribute {name!r} of {self.op} is missing", node=where, fix="set it in the model")
            if not attribute.fits(value):
                raise IngotError(f"attribute {name!r} of {self.op} is no {attribute.type.value}", node=where)
            found[name] = value
        unknown = sorted(given.keys() - found.keys())
        if unknown:
            known = ", ".join(self.attributes) or "none"
            raise IngotError(f"{self.op} has no attribute {unknown[0]!r}", node=where, fix=f"its attributes: {known}")
        return found
