"""Float16 inside, the model's own types at its edges.

Kernels accumulate and compute in float32 whatever the tensors are stored in, so what decides is
whether *stored* values fit: range, and whole numbers that must stay exact. What may not fit stays
in float32, with the reason. The result is strongly typed: casts stand where types meet, nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Array, Editor, bodies, constant_of, is_op, maker, operand
from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.precision.half_types import HalfForm, half_form
from ingot.precision.islands import LARGEST, SMALLEST, Islands, beyond, find_islands, vanishes

_HALF, _FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT
_MASKED = 32768.0
"""What a mask constant beyond the range becomes: far below any score, and a score still fits on top of it."""
_BOUNDS = ("Clip", "Min", "Max")
_SHOWN = 4
_NOTICED = 0.001
"""Share of a weight's elements that must be lost before it is worth a note."""
_NOTHING = HalfForm(frozenset(), frozenset(), frozenset())


def autocast(model: ir.Model) -> list[str]:
    """Rewrites ``model`` in place to float16; gives what stays in float32 and why, grouped by reason.

    A model that already holds 16-bit weights is left as it is.
    """
    if _is_half(model):
        return ["the model already holds 16-bit weights: its types are kept"]
    islands = find_islands(model)
    caster = _Caster(model, islands)
    for node in list(model.graph):
        caster.convert(node)
    caster.finish()
    return [*_grouped(islands), *caster.notes()]


def _is_half(model: ir.Model) -> bool:
    """Whether most of the floating-point weights are 16-bit."""
    narrow = wide = 0
    for value in model.graph.initializers.values():
        size = 0 if value.const_value is None else value.const_value.size
        narrow += size if value.dtype in (_HALF, ir.DataType.BFLOAT16) else 0
        wide += size if value.dtype == _FULL else 0
    return narrow > wide


def _grouped(islands: Islands) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in islands.reasons.items():
        groups[reason].append(name)
    return [f"float32: {_some(names)}: {reason}" for reason, names in sorted(groups.items())]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


class _Caster:
    """Changes types node by node; every value is cast at most once to each type."""

    def __init__(self, model: ir.Model, islands: Islands) -> None:
        self.editor, self.islands = Editor(model), islands
        self.graph, self.opset = model.graph, model.opset_imports.get("", 21)
        self.halved: set[ir.Value] = set()
        self.cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.weights: dict[tuple[ir.Value, float], ir.Value] = {}
        self.lost: dict[str, float] = {}
        self.clamped: dict[str, None] = {}

    def convert(self, node: ir.Node) -> None:
        """Gives the node its types; what makes its inputs has them already."""
        form = _NOTHING
        if not node.domain and kind_of(node.op_type, node.domain) is not Kind.HOST:
            form = half_form(node, self.opset) or _NOTHING
        half = not self.islands.full(node)
        for position, value in enumerate(node.inputs):
            if value is None or position in form.free:
                continue
            if half and position in form.inputs and value.dtype == _FULL:
                node.replace_input_with(position, self._half(value, node))
            elif not half and value in self.halved:
                node.replace_input_with(position, self._to(value, _FULL))
        self._convert_bodies(node)
        if half:
            self._convert_attributes(node, form)
            for position in form.outputs:
                self._store_half(node, node.outputs[position])

    def _convert_bodies(self, node: ir.Node) -> None:
        """Values that a body captures stay float32 for it."""
        for attr in node.attributes.values():
            for body in bodies(attr):
                for inner in body.all_nodes():
                    for position, value in enumerate(inner.inputs):
                        if value is not None and value in self.halved:
                            inner.replace_input_with(position, self._to(value, _FULL))

    def _convert_attributes(self, node: ir.Node, form: HalfForm) -> None:
        if not form.outputs or node.outputs[0].dtype != _FULL:
            return
        if is_op(node, "Cast"):
            node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
        if is_op(node, "ConstantOfShape"):
            fill = node.attributes.get_tensor("value", None)
            array = np.zeros(1, np.float32) if fill is None else np.asarray(fill.numpy())
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(self._narrow(array, _MASKED, node.name or "")))

    def _store_half(self, node: ir.Node, value: ir.Value) -> None:
        """Makes a node's result float16; a graph output is cast back behind it."""
        if value.dtype != _FULL or not value.name:
            return
        if value.is_graph_output():
            name = value.name
            value.name = self.editor.name(f"{name}/half")
            outer = ir.Value(name=name, type=ir.TensorType(_FULL), shape=value.shape)
            for position, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[position] = outer
            self._insert_cast(value, outer, _FULL)
        value.type = ir.TensorType(_HALF)
        self.halved.add(value)

    def _half(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """The float16 form of a float32 value that ``node`` reads."""
        array = constant_of(value)
        if array is None:
            widened = maker(value, "Cast")
            source = None if widened is None else operand(widened, 0)
            return source if source is not None and source.dtype == _HALF else self._to(value, _HALF)
        limit = LARGEST if is_op(node, *_BOUNDS) else _MASKED
        found = self.weights.get((value, limit))
        if found is None:
            found = self.editor.constant(self._narrow(array, limit, value.name or ""), f"{value.name}/half")
            self.weights[value, limit] = found
        return found

    def _narrow(self, array: Array, limit: float, name: str) -> Array:
        """A float32 constant in float16: finite numbers beyond the range become plus or minus ``limit``."""
        if beyond(array):
            self.clamped.setdefault(name)
            array = np.where(np.isfinite(array) & (np.abs(array) > LARGEST), np.copysign(limit, array), array)
        if array.size == 1 and vanishes(array):
            # Such a number keeps a divisor or logarithm away from zero.
            return np.asarray(np.copysign(np.full(array.shape, SMALLEST), array), np.float16)
        narrow = array.astype(np.float16)
        zeroed = int(np.count_nonzero((narrow == 0) & (array != 0)))
        if zeroed > _NOTICED * array.size:
            self.lost[name] = zeroed / array.size
        return narrow

    def _to(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value`` cast to ``dtype``, right behind the node that makes it."""
        found = self.cast.get((value, dtype))
        if found is None:
            suffix = "half" if dtype == _HALF else "full"
            shape = None if value.shape is None else value.shape.copy()
            found = ir.Value(name=self.editor.name(f"{value.name}/{suffix}"), type=ir.TensorType(dtype), shape=shape)
            self._insert_cast(value, found, dtype)
        return found

    def _insert_cast(self, value: ir.Value, result: ir.Value, dtype: ir.DataType) -> None:
        attrs = [ir.AttrInt64("to", int(dtype))]
        cast = ir.Node("", "Cast", [value], attrs, outputs=[result], name=self.editor.name(f"{result.name}/cast"))
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, cast)
        else:
            self.graph.insert_before(self.graph[0], cast)
        self.cast[value, dtype] = result

    def finish(self) -> None:
        """Removes casts to the type that is there already, and weights nobody reads any more."""
        for node in list(self.graph):
            source = operand(node, 0)
            if is_op(node, "Cast") and source is not None and source.dtype == node.outputs[0].dtype:
                self.editor.substitute(node, source)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def notes(self) -> list[str]:
        """What happened to constants."""
        lines = []
        if self.clamped:
            lines.append(f"constants beyond the range of float16 were clamped: {_some(self.clamped)}")
        if self.lost:
            shares = [f"{name} ({share:.1%})" for name, share in self.lost.items()]
            lines.append(f"elements too small for float16 became zero: {_some(shares)}")
        return lines
