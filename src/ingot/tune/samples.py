"""Random inputs for measuring and checking a Region: never zeros, always in the ops' domain."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.recurrent import R
from ingot.graph.region import ANCHORS, WEIGHTED, BodyOp, Kind, Region
from ingot.tune.storage import Array, Stored

_PERIOD = 1048583
"""A prime: longer inputs repeat, out of step with every power of two, and cost one copy instead of a generator."""
_INDEXED = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1}
"""Ops that index input 0 with this input."""
_BYTES = {"int8": (-128, 128), "uint8": (0, 256)}
_TYPICAL_PRODUCT = 5500.0
"""Standard deviation of a product of two random bytes."""
_TYPICAL_RESULT = 30.0
"""What a sum of such products is scaled to: within a byte that quantizes with steps of one."""


def random_inputs(region: Region, bindings: Bindings, *, positive: bool = False) -> list[Array]:
    """Flat storage of every input of ``region``, laid out as its specs say.

    Floats are standard normal (``positive``: uniform in [0.1, 1.1], for ops such as Sqrt and Log);
    weights of products are divided by the root of the reduced length, as trained ones are.
    Integers stay below every axis they may index; quantized tensors have bytes of all values, and what
    scales their sums brings these to a few dozens (sums of two products by positive factors). The same
    Region always gets the same data.
    """
    limit = _index_limit(region, bindings)
    low = 1 if any(op.op in ("Div", "Mod") for op in region.ops) else 0
    scales = _weight_scales(region, bindings)
    whole = _quantized(region)
    factors = _factors(region) if region.kind is Kind.SUM and whole else set()  # two scales have a quotient
    arrays: list[Array] = []
    for position, (name, tensor) in enumerate(zip(region.inputs, region.input_specs, strict=True)):
        stored = Stored.of(tensor, bindings)
        generator = np.random.default_rng(zlib.crc32(f"{region.signature}/{position}".encode()))
        length = min(stored.extent, _PERIOD)
        if stored.dtype in _BYTES and whole:
            block = generator.integers(*_BYTES[stored.dtype], length).astype(stored.numpy)
        elif region.kind is Kind.RECURRENT and stored.dtype == "int32":  # lengths
            block = generator.integers(1, recurrent_steps(region, bindings) + 1, length).astype(np.int32)
        else:
            above = positive or name in factors
            block = _block(generator, stored.dtype, length, limit, low, above, scales.get(name, 1.0))
        arrays.append(np.resize(block, stored.extent) if stored.extent else np.empty(0, stored.numpy))
    if region.kind is Kind.SCATTER and region.anchor.attr("reduction", "none") == "none":
        position = region.inputs.index(region.anchor.inputs[1])
        stored = Stored.of(region.input_specs[position], bindings)
        stored.window(arrays[position])[...] = _distinct(region, bindings, stored)
    return arrays


def _distinct(region: Region, bindings: Bindings, indices: Stored) -> NDArray[np.int64]:
    """Indices of which no two mean one element: which update stays there would be a matter of chance."""
    op = region.anchor
    generator = np.random.default_rng(zlib.crc32(region.signature.encode()))
    shape = [evaluate(d, bindings) for d in region.spec_of[op.inputs[0]].shape]
    if op.op == "ScatterElements":
        axis = int(op.attr("axis", 0)) % len(shape)  # type: ignore[arg-type]
        starts = generator.integers(0, shape[axis], [1 if i == axis else n for i, n in enumerate(indices.shape)])
        steps = np.arange(indices.shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return (starts + steps) % shape[axis]
    lead, count = shape[: indices.shape[-1]], _product(indices.shape[:-1])
    places = (int(generator.integers(0, _product(lead))) + np.arange(count)) % _product(lead)
    return np.stack(np.unravel_index(places, lead), -1).reshape(indices.shape)


def _block(
    generator: np.random.Generator, dtype: str, length: int, limit: int | None, low: int, positive: bool, scale: float
) -> Array:
    kind = dtypes.numpy_dtype(dtype)
    if dtypes.is_float(dtype):
        values = generator.uniform(0.1, 1.1, length) if positive else generator.standard_normal(length)
        return (values * scale).astype(kind)
    if dtype == "bool":
        return generator.integers(0, 2, length).astype(kind)
    if limit is not None:
        return generator.integers(0, limit, length).astype(kind)
    least = low if low or kind.kind == "u" else -8
    return generator.integers(least, 9, length).astype(kind)


def _index_limit(region: Region, bindings: Bindings) -> int | None:
    """The shortest axis that an integer input may index, or None when nothing is indexed."""
    sizes: list[int] = []
    for op in region.ops:
        if op.op in _INDEXED and len(op.inputs) > 1 and region.literal(op.inputs[1]) is None:
            shape = [evaluate(d, bindings) for d in region.spec_of[op.inputs[0]].shape]
            axis = op.attr("axis", 0)
            sizes.append(min(shape) if op.op.endswith("ND") else shape[int(axis) if isinstance(axis, int) else 0])
    return max(min(sizes), 1) if sizes else None


def recurrent_steps(region: Region, bindings: Bindings) -> int:
    """Steps in time of a recurrent layer."""
    op = region.anchor
    return max(evaluate(region.spec_of[op.inputs[0]].shape[1 if op.attr("layout", 0) else 0], bindings), 1)


def _weight_scales(region: Region, bindings: Bindings) -> dict[str, float]:
    if region.kind is Kind.RECURRENT:
        state = region.anchor.inputs[R]
        return {state: max(evaluate(region.spec_of[state].shape[-1], bindings), 1) ** -0.5}
    if region.kind not in WEIGHTED:
        return {}
    products = [op for op in region.ops if op.op in ANCHORS[region.kind]]
    scales = {op.inputs[1]: max(reduction_length(op, region, bindings), 1) ** -0.5 for op in products}
    if not region.anchor.op.endswith("Integer"):
        return scales
    reduced = scales[region.anchor.inputs[1]]
    step = next((region.literal(op.inputs[1]) for op in region.ops if op.op == "QuantizeLinear"), None)
    result = _TYPICAL_RESULT * (step if isinstance(step, float) else 1.0)
    constants = [n for n, s in zip(region.inputs, region.input_specs, strict=True) if s.constant]
    factors = _factors(region)
    sums = {n: result * reduced / _TYPICAL_PRODUCT if n in factors else result for n in constants}
    return sums


def _factors(region: Region) -> set[str]:
    return {n for op in region.ops if op.op == "Mul" for n in op.inputs}


def _quantized(region: Region) -> bool:
    """Whether bytes in the Region are numbers of their whole range rather than indices or counts."""
    return any(op.op in ("QuantizeLinear", "DequantizeLinear") or op.op.endswith("Integer") for op in region.ops)


def reduction_length(op: BodyOp, region: Region, bindings: Bindings) -> int:
    """Products summed into one element of a Conv's, MatMul's or Gemm's result."""
    sizes = [[evaluate(d, bindings) for d in region.spec_of[name].shape] for name in op.inputs[:2]]
    match op.op:
        case "Conv" | "ConvInteger":
            return _product(sizes[1][1:])
        case "ConvTranspose":
            return _product([sizes[1][0], *sizes[1][2:]])
        case "Gemm":
            return sizes[0][0] if op.attr("transA", 0) else sizes[0][1]
        case _:
            return sizes[0][-1]


def flops(region: Region, bindings: Bindings) -> float:
    """Floating-point operations of the Region, counting an element-wise op as one per element."""
    total = 0.0
    for op in region.ops:
        elements = float(_product(evaluate(d, bindings) for d in region.spec_of[op.outputs[0]].shape))
        match op.op:
            case "Conv" | "ConvInteger" | "MatMul" | "MatMulInteger" | "Gemm":
                total += 2.0 * elements * reduction_length(op, region, bindings)
            case "ConvTranspose":
                weight = [evaluate(d, bindings) for d in region.spec_of[op.inputs[1]].shape]
                source = _product(evaluate(d, bindings) for d in region.spec_of[op.inputs[0]].shape)
                total += 2.0 * source * _product(weight[1:])
            case "Attention":
                keys = evaluate(region.spec_of[op.inputs[1]].shape[-2], bindings)
                total += 4.0 * elements * keys
            case "LSTM" | "GRU" | "RNN":
                rows = _product(evaluate(d, bindings) for d in region.spec_of[op.inputs[0]].shape)
                total += 2.0 * rows * evaluate(region.spec_of[op.inputs[R]].shape[-1], bindings)
            case _:
                first = region.spec_of.get(op.inputs[0]) if op.inputs else None
                read = float(_product(evaluate(d, bindings) for d in first.shape)) if first else 0.0
                total += max(elements, read)
    return total


def _product(sizes: Iterable[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
