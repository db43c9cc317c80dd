"""What is measured of an engine, and what is written down: the content of a benchmark's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ingot.measure.accuracy import Difference
from ingot.measure.environment import Environment
from ingot.measure.latency import Latency


@dataclass(frozen=True)
class Budget:
    """How long to measure. Times in seconds."""

    warmup: float = 0.2
    seconds: float = 3.0
    iterations: int = 10
    """At least so many runs, however long they take."""
    transfers: bool = True
    """Whether copies from and to the host are measured too."""


class Figures(msgspec.Struct, frozen=True):
    """Times of one engine; ``Latency`` in milliseconds. Only ``run`` exists on the CPU."""

    run: Latency
    """Host time of one ``enqueue`` and the wait for it, inputs and outputs on the device."""
    throughput: float
    """Runs per second: submitted back to back on a GPU, one after another on the CPU."""
    load_ms: float
    """From opening the file to the first result, the CUDA context existing before."""
    allocations: int
    """Allocations of device and pinned memory after the first run."""
    latency: Latency | None = None
    """Host time of one run from host arrays to host arrays."""
    spin: Latency | None = None
    """As ``run``, where the wait watches for the end (``synchronize(spin=True)``)."""
    enqueue: Latency | None = None
    """Host time of ``enqueue`` alone."""
    h2d: Latency | None = None
    compute: Latency | None = None
    """GPU time of one run between events, queued behind another run."""
    d2h: Latency | None = None
    roofline_ms: float = 0.0
    """Least time on this hardware; 0 where it is not known. On a GPU the sum over the layers of the longer of
    arithmetic and traffic, on the CPU arithmetic alone."""

    @property
    def roofline_share(self) -> float:
        """Least time over the GPU's time, on the CPU over the run's; 0 where it is not known."""
        spent = (self.compute or self.run).median
        return self.roofline_ms / spent if spent else 0.0


class EngineFacts(msgspec.Struct, frozen=True):
    """The engine that was measured. Sizes in bytes."""

    target: str
    layers: int
    kernels: int
    islands: int
    backend: str
    """Of a CPU engine: the library that runs it."""
    file_bytes: int
    weights_bytes: int
    arena_bytes: int
    code_bytes: int
    reasons: list[str]


class PeerFigures(msgspec.Struct, frozen=True):
    """Another runtime on the same inputs in the same process."""

    name: str
    variant: str
    run: Latency | None = None
    ratio: float = 0.0
    """Its median over Ingot's: above 1, Ingot is faster."""
    outputs: list[Difference] = []
    """Against the reference; empty where only speed is compared."""
    note: str = ""
    error: str = ""
    """Why there are no figures."""


class Record(msgspec.Struct, frozen=True):
    """One row of a benchmark, complete enough to be repeated."""

    name: str
    model: str
    model_sha256: str = ""
    options: dict[str, Any] = {}
    inputs: dict[str, tuple[str, list[int]]] = {}
    """Type and shape."""
    environment: Environment | None = None
    engine: EngineFacts | None = None
    build_seconds: float = 0.0
    """0 where the engine was built before."""
    figures: Figures | None = None
    outputs: list[Difference] = []
    """Against ``reference``."""
    reference: str = ""
    tolerance: float = 0.0
    """Largest relative error that counts as correct."""
    peers: list[PeerFigures] = []
    error: str = ""
    """Why the row is not complete."""

    @property
    def correct(self) -> bool:
        """Whether every output is within the tolerance."""
        return bool(self.outputs) and all(output.within(self.tolerance) for output in self.outputs)


def to_json(record: Record | list[Record]) -> bytes:
    """Readable JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
