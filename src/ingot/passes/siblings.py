"""Convolutions that read one value become one convolution, of which each takes its channels.

One kernel reads the value once, and small feature maps fill the GPU better. The parts are windows on the result's
memory, channels last, which convolutions, poolings and reductions read as they lie; for whoever wants a part by
itself (a concat, a residual sum, an output of the model) its own convolution is better, and it stays apart.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Array, Attribute, Editor, constant_of, is_op, kept, operand, rank_of, readers, shape_of
from ingot.passes.tails import Tail, alike, tail_of, write
from ingot.passes.together import hand_out, readers_of_one

_READERS = (
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax",
    "ReduceSum", "Shape",
)  # fmt: skip
"""Ops whose kernels read a window of channels as fast as a tensor of its own."""
_VECTOR = 8
"""Channels of the widest load of 16-bit numbers: parts start at multiples of it."""
_SECTOR = 32
"""Bytes that device memory gives at a time."""
_ITEM = 2
"""Bytes of an element, where time matters most."""
_COLUMNS = (32, 64, 96, 128, 192, 256)
"""Channels that one block of a kernel makes: others are rounded up."""
_LAUNCH = 1.0e-6
"""Seconds that one kernel more takes (as in ``kernels/cost.py``)."""
_BANDWIDTH, _CACHE, _FLOPS = 4.8e12, 1.0e13, 8.0e14
"""Bytes of memory, of the second-level cache, and 16-bit operations per second, of an H200."""


@dataclass(frozen=True)
class Sibling:
    """A convolution with constant weights, and the arithmetic behind it."""

    node: ir.Node
    weight: Array
    """(channels made, channels read, kernel...)."""
    bias: Array | None
    tail: Tail

    @property
    def channels(self) -> int:
        """Channels that it makes."""
        return int(self.weight.shape[0])

    def numbers(self, name: str, default: int) -> tuple[int, ...]:
        """Strides, dilations or pads."""
        spatial = (self.weight.ndim - 2) * (2 if name == "pads" else 1)
        return tuple(self.node.attributes.get_ints(name, (default,) * spatial))


def join_convolutions(model: ir.Model) -> list[str]:
    """Joins sibling convolutions; gives how many, and why others stay apart."""
    editor = Editor(model)
    apart: dict[str, list[str]] = defaultdict(list)
    joined = 0
    for nodes in readers_of_one(model, lambda node: is_op(node, "Conv")):
        for group in _groups(nodes, apart):
            answer = pays(group)
            if answer:
                _join(editor, group)
                joined += len(group)
            else:
                apart[str(answer)] += [s.node.name or "" for s in group]
    lines = [f"{joined} convolutions joined with others that read the same value"] if joined else []
    left = [(", ".join(names), "stays" if len(names) == 1 else "stay", why) for why, names in apart.items()]
    return lines + [f"{names} {stay} apart from others: {why}" for names, stay, why in left]


def _groups(nodes: list[ir.Node], apart: dict[str, list[str]]) -> list[list[Sibling]]:
    """Those that :func:`check` allows together, two or more; ``apart`` gets the reason for every other."""
    groups: list[list[Sibling]] = []
    reasons: dict[str, str] = {}
    for node in nodes:
        name, found = node.name or "", sibling(node)
        if isinstance(found, No):
            apart[str(found)].append(name)
            continue
        for group in groups:
            answer = check(group[0], found)
            if answer:
                group.append(found)
                break
            reasons[name] = reasons[group[0].node.name or ""] = str(answer)
        else:
            groups.append([found])
    for group in groups:
        name = group[0].node.name or ""
        if len(group) == 1 and name in reasons:
            apart[reasons[name]].append(name)
    return [group for group in groups if len(group) > 1]


def sibling(node: ir.Node) -> Sibling | No:
    """What is needed of a Conv to join it to another, or why it stays as it is."""
    weight, addend = constant_of(operand(node, 1)), operand(node, 2)
    bias = constant_of(addend)
    if weight is None or (addend is not None and bias is None):
        return No("weights that are not constant")
    rank = rank_of(node.inputs[0])
    if rank is None or weight.ndim != rank or rank < 3 or (bias is not None and bias.shape != weight.shape[:1]):
        return No("sizes that are not known")
    if node.attributes.get_int("group", 1) != 1:
        return No("channels in groups")
    if weight.shape[0] % _VECTOR:
        return No(f"channels that are no multiple of {_VECTOR}")
    tail = tail_of(node.outputs[0], rank - 1, weight.shape[0])
    if tail.end.is_graph_output():
        return No("their result is an output of the model")
    others = sorted({reader.op_type for reader in readers(tail.end) if not is_op(reader, *_READERS)})
    if others:
        return No(f"their results are wanted by themselves ({', '.join(others)})")
    return Sibling(node, weight, bias, tail)


def check(one: Sibling, other: Sibling) -> Answer:
    """Whether two convolutions of one value may be one."""
    if one.weight.shape[2:] != other.weight.shape[2:]:
        return No("their kernels are of different sizes")
    for name, default in (("strides", 1), ("dilations", 1), ("pads", 0)):
        if one.numbers(name, default) != other.numbers(name, default):
            return No(f"their {name} differ")
    automatic = {s.node.attributes.get_string("auto_pad", "NOTSET") for s in (one, other)}
    if len(automatic) > 1:
        return No("their pads differ")
    if one.weight.dtype != other.weight.dtype:
        return No("their weights are of different types")
    if not alike(one.tail, other.tail):
        return No("the arithmetic behind them differs")
    return YES


def pays(group: Sequence[Sibling]) -> Answer:
    """Whether one kernel takes less time than one for each.

    It reads the input once. It costs where parts begin or end inside a sector of memory, of which every pixel that is
    read then takes up to one more, and where their sum is rounded up further than they are. A size that is not known
    counts as one: what has to run at several sizes should be quick at small ones, too.
    """
    first, widths = group[0], [s.channels for s in group]
    shape = shape_of(first.node.outputs[0]) or ()
    pixels = math.prod(size for axis, size in enumerate(shape) if axis != 1 and isinstance(size, int))
    cuts = [0, *itertools.accumulate(widths)]
    torn = sum(any(cut * _ITEM % _SECTOR for cut in (*pair, cuts[-1])) for pair in itertools.pairwise(cuts))
    together = _seconds(first, cuts[-1], pixels) + pixels * torn * _SECTOR / _BANDWIDTH
    apart = sum(_seconds(first, width, pixels) for width in widths)
    if together <= apart:
        return YES
    return No(f"one kernel for all would take {together * 1e6:.0f} µs instead of {apart * 1e6:.0f} at these sizes")


def _seconds(one: Sibling, channels: int, pixels: int) -> float:
    """A kernel like that of ``one``, for ``channels``: the slowest of products, reads of the cache, and of memory."""
    depth: int = math.prod(one.weight.shape[1:])
    read = int(one.weight.shape[1]) * math.prod(one.numbers("strides", 1))
    products = 2 * depth * _rounded(channels) / _FLOPS
    return _LAUNCH + pixels * max(products, depth * _ITEM / _CACHE, (read + channels) * _ITEM / _BANDWIDTH)


def _rounded(channels: int) -> int:
    return min(-(-channels // columns) * columns for columns in _COLUMNS if columns >= 64 or channels <= columns)


def _join(editor: Editor, group: list[Sibling]) -> None:
    first = group[0].node
    source = first.inputs[0]  # which may have become a part itself
    made, sizes = first.outputs[0], [s.channels for s in group]
    shape = shape_of(made)
    base, total = f"{made.name}/joined", None if shape is None else (shape[0], sum(sizes), *shape[2:])
    inputs = [source, editor.constant(np.concatenate([s.weight for s in group]), f"{base}/weight")]
    if any(s.bias is not None for s in group):
        biases = [np.zeros(s.channels, s.weight.dtype) if s.bias is None else s.bias for s in group]
        inputs.append(editor.constant(np.concatenate(biases), f"{base}/bias"))
    whole = editor.value(base, made.dtype, total)
    attributes: dict[str, Attribute] = kept(first)
    editor.ops("Conv", inputs, attributes, [whole], before=first)
    result = write(editor, whole, [s.tail for s in group], group[0].weight.ndim - 1, first)
    hand_out(editor, result, [s.tail for s in group], sizes, 1, first)
