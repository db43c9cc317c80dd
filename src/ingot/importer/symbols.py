"""Names of the symbolic dimensions of the inputs: identifiers, or expressions over them."""

from __future__ import annotations

import keyword
import re

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.graph import dims

_RESERVED = frozenset({"floor", "ceil", "ceiling", "max", "min", "mod", "Max", "Min", "Mod", "sqrt"})
"""Words of dimension expressions."""
_UNNAMED = frozenset({"", "?", "None", "-1", "*"})
"""What exporters write for a dimension that has no name: two of them need not be equal."""


def tensor_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that are dense tensors of known rank."""
    return [v for v in graph.inputs if v.shape is not None and isinstance(v.type, ir.TensorType)]


def name_dims(graph: ir.Graph) -> None:
    """Makes every symbolic dimension of the inputs a valid identifier or an expression over such, in place.

    The same symbol keeps the same name; unnamed dimensions and negative ones get a name of their own.
    """
    declared = dict.fromkeys(_symbol(dim) for value in tensor_inputs(graph) for dim in value.shape or ())
    plain = {name for name in declared if _is_plain(name)}
    taken = set(plain)
    names = {name: name for name in plain}
    for name in declared:
        if name and name not in names:
            names[name] = name if _is_expression(name, plain) else _fresh(identifier(name), taken)
    for value in tensor_inputs(graph):
        found: list[int | str] = []
        for axis, dim in enumerate(value.shape or ()):
            symbol = _symbol(dim)
            if isinstance(dim, int) and dim >= 0:
                found.append(dim)
            else:
                found.append(names[symbol] if symbol else _fresh(f"{identifier(str(value.name))}_dim{axis}", taken))
        value.shape = ir.Shape(found)


def is_symbol(dim: int | ir.SymbolicDim) -> bool:
    """Whether a dimension (of an input that ``name_dims`` has been over) is a plain symbol."""
    return not isinstance(dim, int) and str(dim.value).isidentifier()


def identifier(text: str) -> str:
    """``text`` with what an identifier cannot hold replaced; may start with a digit or be empty."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")


def _symbol(dim: int | ir.SymbolicDim) -> str:
    if isinstance(dim, int) or dim.value is None or dim.value.strip() in _UNNAMED:
        return ""
    return dim.value


def _is_plain(name: str) -> bool:
    # Names that start with an underscore are those that shape inference makes up.
    plain = name.isascii() and name.isidentifier() and not name.startswith("_")
    return plain and not keyword.iskeyword(name) and name not in _RESERVED


def _is_expression(text: str, plain: set[str]) -> bool:
    """Whether ``text`` computes a size from dimensions that other inputs have."""
    try:
        used = dims.symbols(text)
        return bool(used) and used <= plain and dims.evaluate(text, dict.fromkeys(used, 840)) >= 0
    except IngotError:
        return False


def _fresh(wish: str, taken: set[str]) -> str:
    stem = wish if _is_plain(wish) else f"dim_{wish}".rstrip("_")
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name
