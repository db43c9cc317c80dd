"""``ingot run``: one inference, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ingot.cli import render
from ingot.cli.build import Flags
from ingot.cli.files import named_arrays, write_arrays
from ingot.cli.subject import inputs_for, subject
from ingot.errors import IngotError

Array = np.ndarray[Any, Any]


def run(model: str, flags: Flags, feeds: Path | None, output: Path | None, seed: int) -> None:
    """Runs once on the arrays of ``feeds`` or on random ones; prints the outputs and writes them to ``output``."""
    from ingot.runtime.engine import load

    if output is not None and not output.parent.is_dir():
        raise IngotError("its folder does not exist", node=str(output), fix="create it first")
    with subject(model, flags) as found:
        engine = load(found.path)
        arrays = inputs_for(engine.file, found, feeds, seed)
        made = engine.context().run(arrays)
    rows = [_row(name, array) for name, array in named_arrays(made).items()]
    render.console().print(render.table("", ["output", "type", "shape", "min", "max", "mean"], rows, left=3))
    if output is not None:
        write_arrays(output, made)
        print(f"written: {output}")


def _row(name: str, array: Array) -> list[str]:
    numbers = array.dtype.kind not in "OUSc"
    wide = array.astype(np.float64) if numbers else array
    figures = [wide.min(), wide.max(), wide.mean()] if wide.size and numbers else []
    text = [render.number(float(figure)) for figure in figures] or ["–"] * 3
    return [name, str(array.dtype), render.shape(array.shape), *text]
