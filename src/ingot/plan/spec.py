"""The Plan: everything the runtime needs to know, as plain typed data (msgspec).

A Plan is a function of the input dimensions: sizes, grids and scalar arguments are dimension
expressions (``ingot.graph.dims``) evaluated when a Context binds shapes. Arena offsets are
constants: they are assigned for the largest shapes of the profile.
This module imports neither onnx nor any compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

Dim = int | str


class Profile(msgspec.Struct, frozen=True):
    """Bounds of one symbolic dimension; tactics are tuned at ``opt``."""

    symbol: str
    min: int
    opt: int
    max: int


class DataSize(msgspec.Struct, frozen=True):
    """A symbol that no input gives: the size of values[value] along ``axis``, known when its host step has run.

    At most ``max``, for which memory is planned; tactics are chosen at ``opt``.
    """

    symbol: str
    opt: int
    max: int
    value: int
    axis: int


class Memory(msgspec.Struct, frozen=True):
    """Where a Value lives. ``offset`` and ``bytes`` count bytes.

    space: ``arena`` (per Context), ``weights`` (shared, immutable), ``persistent`` (per Context,
    zeroed once), ``input``/``output`` (the binding called ``binding``), ``host`` (made by
    a host step and read only by host steps or bindings).
    ``offset`` is an expression only for a window whose place in its parent depends on the shape.
    """

    space: str
    offset: Dim = 0
    bytes: Dim = 0
    binding: str = ""


class ValueDecl(msgspec.Struct, frozen=True):
    """One Value: element type, logical shape, strides in elements, place.

    Sequences and optionals have a type like ``sequence(float32)``, no dimensions, and live on the host.
    """

    name: str
    dtype: str
    shape: list[Dim]
    strides: list[Dim]
    memory: Memory


class TensorMapDecl(msgspec.Struct, frozen=True):
    """How the copy engine reads a Value; the fields are those of :class:`ingot.kernels.api.TensorMap`."""

    dtype: str
    dims: list[Dim]
    strides: list[Dim]
    box: list[int]
    swizzle: int
    lower: list[int] = []
    upper: list[int] = []
    steps: list[int] = []


class Argument(msgspec.Struct, frozen=True):
    """One kernel argument.

    kind: ``value`` (address of values[index]), ``dim`` (a number), ``null``, ``map`` (a tensor map of values[index]).
    """

    kind: str
    index: int = 0
    dim: Dim = 0
    bytes: int = 8
    map: TensorMapDecl | None = None


class Cubin(msgspec.Struct, frozen=True):
    """Machine code: ``size`` bytes at ``offset`` of the cubin segment."""

    offset: int
    size: int


class When(msgspec.Struct, frozen=True):
    """A condition: values[value], of one bool that a host step makes, is ``wanted``."""

    value: int
    wanted: bool


class Step(msgspec.Struct, frozen=True):
    """One unit of work. ``kind``: ``kernel``, ``host``, ``copy`` (values[reads[0]] to values[writes[0]]) or ``call``
    (a plugin's Python function, which submits work to the stream).

    ``after`` lists the steps that must have finished (true dependencies, transitively reduced);
    ``programmatic`` the one among them, if any, whose edge is a programmatic one.
    """

    kind: str
    name: str
    region: int
    """Index into Plan.regions."""
    after: list[int]
    reads: list[int] = []
    writes: list[int] = []
    programmatic: list[int] = []
    cubin: int = -1
    entry: str = ""
    grid: list[Dim] = []
    block: int = 0
    shared: int = 0
    cluster: int = 1
    arguments: list[Argument] = []
    pdl: str = "none"
    model: int = -1
    """Host steps and calls: index into Plan.models; reads and writes are its inputs and outputs, in order."""
    backend: str = "onnxruntime"
    """Host steps: ``onnxruntime``, ``openvino`` (computes in float32), ``openvino:bf16``, ``reference`` (ONNX's
    evaluator), ``parts`` (the model is :class:`ingot.graph.host_parts.HostParts`) or ``plugin`` (a plugin's NumPy
    reference; the model is its :class:`ingot.plugins.record.Record`). Calls: ``plugin``."""
    cooperative: bool = False
    """Whether the blocks of a kernel wait for each other."""
    when: list[When] = []
    """The step runs only where all of these hold; else nobody needs its results, and what is in their place is junk.
    Steps that name it in ``after`` then wait for what it would have waited for."""


def conditions(steps: Sequence[Step]) -> frozenset[int]:
    """Values that decide which of ``steps`` run."""
    return frozenset(when.value for step in steps for when in step.when)


class RegionDecl(msgspec.Struct, frozen=True):
    """What a Region was and what was decided for it: the material of ``ingot inspect``."""

    name: str
    kind: str
    ops: list[str]
    signature: str
    reads: list[int]
    writes: list[int]
    tactic: str
    """The Variant's text, or why the Region runs on the host."""
    micros: float
    """Measured (or, when ``measured`` is false, predicted) time at opt shapes."""
    measured: bool
    bytes: Dim
    """Fewest bytes through device memory: inputs once plus outputs once."""
    flops: Dim
    dtype: str
    notes: list[str] = []
    body: int = -1
    """Index into Plan.models of the Region as a small ONNX model (simulator, compare); -1 for none."""


class ModelDecl(msgspec.Struct, frozen=True):
    """A serialised ONNX model, or several for backend ``parts``: ``size`` bytes at ``offset`` of the models segment.

    ``inputs`` and ``outputs`` are its tensor names, in the order of the step's reads and writes.
    """

    offset: int
    size: int
    inputs: list[str]
    outputs: list[str]


class Binding(msgspec.Struct, frozen=True):
    """An input or output of the engine, dense and row-major, in the model's own type and order."""

    name: str
    dtype: str
    shape: list[Dim]
    value: int
    """Index into Plan.values."""


class Plan(msgspec.Struct, frozen=True):
    """The whole schedule of one engine."""

    target: str
    """``sm_90`` ... or ``cpu``."""
    profiles: list[Profile]
    inputs: list[Binding]
    outputs: list[Binding]
    values: list[ValueDecl]
    regions: list[RegionDecl]
    cubins: list[Cubin]
    models: list[ModelDecl]
    steps: list[Step]
    arena_bytes: int
    persistent_bytes: int
    weights_bytes: int
    reasons: list[str] = []
    data: list[DataSize] = []
    """Sizes that depend on data, in the order in which they become known."""
    name: str = ""
    """Of the optimization profile that it is for, where the engine has several."""
