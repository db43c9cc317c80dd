"""Nodes whose op is a plugin's: checked against its schema, and their shapes inferred by its rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext, registry

from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.dims import Dim
from ingot.graph.edit import plain_attribute, shape_of
from ingot.graph.region import Attr
from ingot.plugins.api import Node, Plugin, TensorInfo
from ingot.plugins.registry import TAKEN, active

_Rule = Callable[[ShapeInferenceContext, ir.Node], None]


def plugin_of(node: ir.Node) -> Plugin | None:
    """The active plugin for the op of ``node``."""
    return active().find(node.domain, node.op_type)


def plain_attributes(node: ir.Node) -> dict[str, Attr]:
    """Attributes as plain values. Raises IngotError for a tensor, a graph or another without such a form."""
    found: dict[str, Attr] = {}
    for name, attr in node.attributes.items():
        value = plain_attribute(attr)
        if value is None:
            raise IngotError(
                f"attribute {name!r} is a {attr.type.name.lower()}, which plugins cannot take",
                node=node.name or node.op_type,
                fix="make it an input",
            )
        found[name] = value
    return found


def check_plugin_nodes(model: ir.Model) -> None:
    """Raises IngotError for a node that does not fit its plugin's schema, or stands inside control flow."""
    outer = set(model.graph)
    for node in model.graph.all_nodes():
        plugin = plugin_of(node)
        if plugin is None:
            continue
        where = node.name or node.op_type
        if node not in outer:
            raise IngotError(
                f"the plugin's op {plugin.op} stands inside control flow, which runs in ONNX Runtime",
                node=where,
                fix="export without control flow, or put the whole of it into the plugin",
            )
        plugin.filled(plain_attributes(node), where)
        least, most = plugin.inputs
        if not least <= len(node.inputs) <= most:
            raise IngotError(f"{plugin.op} has {len(node.inputs)} inputs, not {least} to {most}", node=where)


def install_rules() -> None:
    """Lets shape inference ask the active plugins about their ops."""
    for plugin in active().items:
        _install(plugin.domain, plugin.name)
        if plugin.domain in ("", "ai.onnx"):
            _install(TAKEN, plugin.name)


@cache
def _install(domain: str, name: str) -> None:
    """Once for each op in the process: the rule itself asks what is active."""
    registry.collect()
    versions = registry.version_boundaries(domain, name) or [1]
    for version in versions:
        original: _Rule | None = registry.get(domain, name, version)

        def rule(ctx: ShapeInferenceContext, node: ir.Node, original: _Rule | None = original) -> None:
            plugin = plugin_of(node)
            if plugin is not None:
                _infer(plugin, node, ctx)
            elif original is not None:
                original(ctx, node)

        registry.register(domain, name, since_version=version)(rule)


def _infer(plugin: Plugin, node: ir.Node, ctx: ShapeInferenceContext) -> None:
    """Types and shapes of the outputs; nothing where those of an input are not known."""
    infos = [None if value is None else _info(value) for value in node.inputs]
    if any(info is None and value is not None for info, value in zip(infos, node.inputs, strict=True)):
        return
    where = node.name or node.op_type
    try:
        found = plugin.shapes(Node(tuple(infos), (), plugin.filled(plain_attributes(node), where)))
    except IngotError:
        raise
    except Exception as error:  # the plugin's own code
        raise IngotError(f"the shape rule of {plugin.op} fails: {type(error).__name__}: {error}", node=where) from None
    if len(found) < len(node.outputs):
        raise IngotError(f"the shape rule of {plugin.op} gives {len(found)} outputs", node=where)
    for value, info in zip(node.outputs, found, strict=False):
        value.type = ir.TensorType(ir.DataType(dtypes.TABLE[info.dtype].onnx))
        value.shape = ir.Shape([ctx.simplify_dim(_symbolic(dim)) for dim in info.shape])


def _info(value: ir.Value) -> TensorInfo | None:
    dims = shape_of(value)
    if dims is None or value.dtype is None:
        return None
    dtype = dtypes.from_onnx(int(value.dtype))
    known = tuple(d for d in dims if d is not None)
    return None if dtype is None or len(known) < len(dims) else TensorInfo(dtype, known)


def _symbolic(dim: Dim) -> int | ir.SymbolicDim:
    """A dimension for the inference library, which knows no ceil."""
    if isinstance(dim, int):
        return dim
    return ir.SymbolicDim(_without_ceil(dim))


def _without_ceil(text: str) -> str:
    """``ceil(a)`` as ``-floor(-(a))``."""
    start = text.find("ceil(")
    if start < 0:
        return text
    depth, at = 0, start + len("ceil(") - 1
    for end in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if not depth:
            break
    inner = text[at + 1 : end]
    return f"{text[:start]}(-floor(-({_without_ceil(inner)}))){_without_ceil(text[end + 1 :])}"
