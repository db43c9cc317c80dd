"""Shapes of every value, from those of the inputs: what the file declares beside them is not trusted."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_shape_inference import infer_symbolic_shapes

Declared = dict[str, ir.Shape | None]


def forget_shapes(model: ir.Model) -> Declared:
    """Drops the declared shapes of all values but the inputs, and gives those of the outputs.

    Exporters leave wrong ones, and names of symbols that mean other sizes than those of the inputs.
    """
    declared = {str(value.name): value.shape for value in model.graph.outputs}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None
    return declared


def infer(model: ir.Model, declared: Declared) -> list[str]:
    """Infers shapes in place; gives notes about declared output shapes that are wrong.

    Where nothing is inferred for an output, the numbers among its declared dimensions stay.
    """
    logger = logging.getLogger("onnx_shape_inference")
    level, logger.level = logger.level, logging.ERROR
    try:
        infer_symbolic_shapes(model)
    except Exception as error:  # a shape function of any op may raise anything
        return [f"shape inference stopped: {str(error).strip().splitlines()[0]}"]
    finally:
        logger.level = level
    notes = []
    for value in model.graph.outputs:
        old = declared.get(str(value.name))
        if old is None:
            continue
        if value.shape is None:
            value.shape = ir.Shape([dim if isinstance(dim, int) and dim >= 0 else None for dim in old])
        elif not _agree(old, value.shape):
            notes.append(f"output {value.name!r} is declared as {old} but has shape {value.shape}")
    return notes


def _agree(declared: ir.Shape, found: ir.Shape) -> bool:
    if len(declared) != len(found):
        return False
    pairs = zip(declared, found, strict=True)
    return all(not isinstance(a, int) or not isinstance(b, int) or a < 0 or a == b for a, b in pairs)
