"""What runs an engine, on the GPU or on the host alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingot.runtime.engine import Engine

Shapes = Mapping[str, tuple[int, ...]]


class Context(ABC):
    """The state of one execution of an Engine. Not for several threads at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def run(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once and wait for the results, by output name.

        ``feeds``: a value for every input. NumPy arrays (and what converts to them) give NumPy
        results. Arrays in CUDA memory with ``__dlpack__`` are used where they lie, and the
        results are then :class:`~ingot.runtime.array.DeviceArray` in the Context's own memory,
        overwritten by its next run. ``outputs`` names arrays to write into instead: writable
        NumPy or CUDA arrays of the exact dtype and shape.

        Raises IngotError for a missing or unknown name, a dtype that is not the engine's, a shape
        outside its profile, and failures of the device.
        """

    @abstractmethod
    def bind(
        self,
        shapes: Shapes | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare :meth:`enqueue` for input shapes, and CUDA arrays to read and write in place.

        Inputs and outputs that are not given are the Context's own arrays (:meth:`input`,
        :meth:`output`). The arrays are kept alive until the next ``bind``.
        """

    @abstractmethod
    def enqueue(self, stream: Any = None) -> None:
        """Submit one run of what is bound, without waiting, on ``stream`` (the Context's own if None)."""

    @abstractmethod
    def synchronize(self, *, spin: bool = False) -> None:
        """Wait for everything submitted on the Context's stream. Raises IngotError when a kernel failed.

        ``spin``: watch for the end instead of asking the driver to wait. That is some microseconds faster, but for up
        to 50 ms no other Python thread runs.
        """

    @abstractmethod
    def input(self, name: str) -> Any:
        """The Context's own array of an input, at the bound shape: fill it before :meth:`enqueue`."""

    @abstractmethod
    def output(self, name: str) -> Any:
        """The array of an output, at the bound shape, as the last run left it."""
