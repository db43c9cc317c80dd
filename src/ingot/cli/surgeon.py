"""``ingot surgeon``: cuts a part out of a model, to reproduce a fault with less."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.cli.source import open_source
from ingot.errors import IngotError
from ingot.graph import dtypes

if TYPE_CHECKING:
    import onnx_ir as ir


def surgeon(model: str, starts: Sequence[str], ends: Sequence[str], output: Path) -> None:
    """Writes the part of ``model`` between the Values ``starts`` and ``ends``, and says what it holds."""
    from ingot.importer.extract import extract, save

    if not starts and not ends:
        raise IngotError("neither end of the part is given", fix="give --from, --to, or both")
    source = open_source(model)
    if isinstance(source.model, Path) and output.exists() and output.samefile(source.model):
        raise IngotError("this is the model itself", node=str(output), fix="give another file with -o")
    part = extract(source.model, starts, ends)
    count = len(part.graph)
    begins, stops = _signatures(part.graph.inputs), _signatures(part.graph.outputs)
    save(part, output)
    print(f"{output}: {count} nodes, {render.size(output.stat().st_size)}")
    print(f"from: {begins or 'constants alone'}")
    print(f"to: {stops}")


def _signatures(values: Sequence[ir.Value]) -> str:
    return "; ".join(_signature(value) for value in values)


def _signature(value: ir.Value) -> str:
    shape = "of unknown rank" if value.shape is None else render.shape([str(dim) for dim in value.shape])
    name = dtypes.from_onnx(int(value.dtype)) if value.dtype is not None else None
    return f"{value.name} {name or value.type} {shape}"
