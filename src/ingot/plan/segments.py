"""The cubin and model segments: blobs one after another, equal ones stored once."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from ingot.graph.host_parts import decode, is_parts
from ingot.graph.region import Region
from ingot.importer.walk import fed
from ingot.plan.blobs import Blobs
from ingot.plan.bodies import body_bytes
from ingot.plan.spec import Cubin, ModelDecl

_ALIGN = 64


class CubinTable:
    """Machine code of all kernels."""

    def __init__(self) -> None:
        self._blobs = Blobs(_ALIGN)
        self.rows: list[Cubin] = []

    @property
    def data(self) -> bytes:
        """The segment."""
        return bytes(self._blobs.data)

    def add(self, cubin: bytes) -> int:
        """Index of ``cubin`` in the Plan."""
        row = Cubin(self._blobs.add(cubin), len(cubin))
        if row not in self.rows:
            self.rows.append(row)
        return self.rows.index(row)


class ModelTable:
    """Island models and Region bodies."""

    def __init__(self) -> None:
        self._blobs = Blobs(_ALIGN)
        self.rows: list[ModelDecl] = []
        self._bodies: dict[str, int] = {}

    @property
    def data(self) -> bytes:
        """The segment."""
        return bytes(self._blobs.data)

    def add(self, content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> int:
        """Index of a model in the Plan."""
        row = ModelDecl(self._blobs.add(content), len(content), list(inputs), list(outputs))
        if row not in self.rows:
            self.rows.append(row)
        return self.rows.index(row)

    def add_body(self, region: Region) -> int:
        """Index of a Region's body in the Plan; Regions of one signature share it."""
        if region.signature not in self._bodies:
            canonical = region.canonical
            self._bodies[region.signature] = self.add(body_bytes(region), canonical.inputs, canonical.outputs)
        return self._bodies[region.signature]


def island_inputs(content: bytes) -> tuple[str, ...]:
    """Names of the tensors that an island's model must be fed, in its order (weights inside it excluded)."""
    if is_parts(content):
        return tuple(decode(content).inputs)
    return tuple(value.name for value in fed(onnx.load_from_string(content).graph))
