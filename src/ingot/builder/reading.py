"""Importing for a build: what the importer takes and a plan cannot hold is refused here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.importer.load import Imported, import_model
from ingot.options import Shapes

if TYPE_CHECKING:
    import onnx

Model: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto"
"""A path, the bytes of a file, or the model itself."""


def read_model(model: Model, shapes: Shapes, *, any_size: bool = False) -> Imported:
    """The imported model.

    Raises what :func:`ingot.importer.load.import_model` raises, and IngotError for outputs under one name.
    """
    imported = import_model(model, shapes, any_size=any_size)
    _refuse_shared_outputs(imported.model.graph)
    return imported


def _refuse_shared_outputs(graph: ir.Graph) -> None:
    """A model may return an input, or one value twice, under one name; a plan gives every name memory of its own."""
    seen: set[ir.Value] = set(graph.inputs)
    for value in graph.outputs:
        if value in seen:
            raise IngotError(
                "this output is also an input, or another output", node=str(value.name), fix="put an Identity before it"
            )
        seen.add(value)
