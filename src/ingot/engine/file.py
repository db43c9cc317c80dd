"""An engine in memory, and its way to and from a file."""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ingot.engine.format import Provenance, decode, encode
from ingot.engine.verify import verify_all
from ingot.errors import IngotError
from ingot.plan.spec import Plan

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class EngineFile:
    """A Plan, or one for each optimization profile, with everything it refers to.

    Nothing in it is executed on the host.

    ``weights``, ``cubins`` and ``models`` are read-only one-dimensional byte views; those of an
    engine that was read from a file are mapped, not loaded.
    """

    plan: Plan
    weights: Bytes
    cubins: Bytes = b""
    models: Bytes = b""
    provenance: Provenance = field(default_factory=dict)
    others: tuple[Plan, ...] = ()
    """Plans for further profiles."""

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of every profile, in the order in which they were given."""
        return (self.plan, *self.others)

    def alone(self, plan: Plan) -> EngineFile:
        """The engine with one of its plans only; the segments are the same memory."""
        return replace(self, plan=plan, others=())

    def __post_init__(self) -> None:
        for name in ("weights", "cubins", "models"):
            object.__setattr__(self, name, memoryview(getattr(self, name)).cast("B").toreadonly())

    def cubin(self, index: int) -> bytes:
        """Machine code ``plan.cubins[index]``."""
        decl = self.plan.cubins[index]
        return bytes(self.cubins[decl.offset : decl.offset + decl.size])

    def model(self, index: int) -> bytes:
        """The serialised ONNX model ``plan.models[index]``."""
        decl = self.plan.models[index]
        return bytes(self.models[decl.offset : decl.offset + decl.size])

    def to_bytes(self) -> bytes:
        """The file's content. Equal engines give equal bytes. Raises IngotError if the plan is not valid."""
        return b"".join(self._pieces())

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file in one step: readers see the old file or the whole new one.

        Raises IngotError if the plan is not valid or the file cannot be written.
        """
        target = Path(path)
        pieces = self._pieces()
        # The same folder, because a rename is atomic only within one file system.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            raise IngotError(
                f"cannot write the engine: {error}", node=str(target), fix="check the folder and its space"
            ) from None
        finally:
            with suppress(OSError):  # its folder may be no folder at all
                temporary.unlink()

    @staticmethod
    def read(path: str | os.PathLike[str]) -> EngineFile:
        """Maps and checks an engine file. Raises IngotError when it is missing, not an engine, or damaged.

        All digests are checked here, so later reads of the segments need no checks.
        """
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except (OSError, ValueError) as error:
            raise IngotError(f"cannot read the engine: {error}", node=str(path), fix="check the path") from None
        try:
            return EngineFile.from_bytes(data)
        except IngotError as error:
            raise IngotError(error.reason, node=error.node or str(path), fix=error.fix) from None

    @staticmethod
    def from_bytes(data: Bytes | mmap.mmap) -> EngineFile:
        """The inverse of :meth:`to_bytes`. Raises IngotError for anything but an intact, valid engine."""
        header, segments = decode(memoryview(data).cast("B").toreadonly())
        verify_all((header.plan, *header.others), {name: view.nbytes for name, view in segments.items()})
        return EngineFile(
            header.plan, segments["weights"], segments["cubins"], segments["models"], header.provenance,
            tuple(header.others),
        )  # fmt: skip

    def _pieces(self) -> list[bytes | memoryview]:
        views = {name: memoryview(getattr(self, name)) for name in ("weights", "cubins", "models")}
        verify_all(self.plans, {name: view.nbytes for name, view in views.items()})
        return encode(self.plans, self.provenance, views)
