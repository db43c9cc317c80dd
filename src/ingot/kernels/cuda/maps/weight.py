"""How long a map kernel takes: instructions of its text, bytes it moves, blocks it starts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Region
from ingot.kernels.api import Target
from ingot.kernels.cuda.maps.index import Digit
from ingot.kernels.cuda.maps.plan import reach
from ingot.kernels.cuda.maps.pull import Access

CLOCK = 1.7e9
"""Cycles per second; an SM issues four warp instructions in each."""
BLOCK_START = 1.23e-9
"""Seconds between the starts of two blocks, device-wide: measured on an H200, whatever the block's size."""
_SECTOR = 32
"""Bytes that the memory system moves at least."""
_FLIGHT = 32768
"""Bytes that an SM must have under way to keep device memory busy."""
_FLIGHT_CACHED = 8192
"""The same for the second-level cache, which answers sooner."""
_STRIDED = 1.4
"""Cost of a tensor read with gaps even when every byte of its sectors is used in the end."""
_CACHED = 24e6
"""Bytes of activations that mostly come from the second-level cache, and how much faster it is."""
_CACHE_SPEED = 1.5
_CALLS = {
    "erff": 22, "erf": 200, "expf": 6, "exp": 60, "tanhf": 18, "tanh": 150, "logf": 10, "log": 80, "log1pf": 20,
    "expm1f": 16, "powf": 40, "pow": 300, "sinf": 20, "cosf": 20, "tanf": 30, "fmodf": 25, "sqrtf": 8, "sqrt": 40,
    "floorf": 1, "roundf": 4, "rintf": 1, "ingot_cubic": 12, "ingot_index": 6, "ingot_clamp": 3,
}  # fmt: skip
_CALL = re.compile(r"\b([a-z]\w*)[<(]")
_DIVISION = re.compile(r" [/%] ")
_BY_SYMBOL = re.compile(r" [/%] \(index_t\)")
_LANE_LOOP = re.compile(r"for \(int j = 0; j < (\d+); \+\+j\)")


def instructions(lines: Iterable[str]) -> int:
    """Instructions of one thread, roughly; loops over lanes count for every lane."""
    total, factors = 0, [(-1, 1)]  # type: int, list[tuple[int, int]]
    for line in lines:
        bare = line.lstrip()
        indent = len(line) - len(bare)
        while indent <= factors[-1][0] and not bare.startswith("#"):
            factors.pop()
        lanes = _LANE_LOOP.match(bare)
        times = int(lanes[1]) if lanes else 1
        if lanes and bare.endswith("{"):
            factors.append((indent, factors[-1][1] * times))
            times = 1
        if bare and bare[0] not in "#}":
            total += _weight(bare) * times * factors[-1][1]
    return total


def _weight(line: str) -> int:
    calls = sum(_CALLS.get(name, 0) for name in _CALL.findall(line))
    divisions = 6 * len(_DIVISION.findall(line)) + 14 * len(_BY_SYMBOL.findall(line))
    return 1 + calls + divisions + line.count("(float)") + line.count("half_t(") + line.count("bf16_t(")


def traffic_seconds(
    region: Region, accesses: Iterable[Access], block: int, threads: int, most: int, target: Target, bindings: Bindings
) -> float:
    """Seconds of memory traffic.

    ``block``: elements of a block; ``threads``: threads in all; ``most``: elements of the largest output. A
    tensor that is read with gaps moves whole sectors as often as blocks come back for their other elements.
    """
    worst: dict[str, float] = {}
    wanted = 0
    for access in accesses:
        spec = region.spec_of[access.name]
        size = dtypes.itemsize(spec.dtype)
        touched = min(evaluate(spec.elements, bindings), most, max(evaluate(reach(spec), bindings), 1)) * size
        worst[access.name] = max(worst.get(access.name, 0.0), touched * _waste(access, size, block, bindings))
        if access.name in region.inputs and access.offset.terms:
            wanted += access.lanes * size
    total = sum(worst.values())
    flight = max(min(threads, target.sms * 2048), 1) * max(wanted, 1) / target.sms
    if total < _CACHED:
        return total / (target.bandwidth * _CACHE_SPEED * min(1.0, flight / _FLIGHT_CACHED))
    return total / (target.bandwidth * min(1.0, flight / _FLIGHT))


def _waste(access: Access, size: int, block: int, bindings: Bindings) -> float:
    """Bytes moved for each byte wanted."""
    gap = abs(evaluate(access.near, bindings))
    if gap <= 1:
        return 1.0
    steps = [t.stride for t, factor in access.offset.terms if isinstance(t, Digit) and factor == 1]
    beside = max((block // max(evaluate(step, bindings), 1) for step in steps), default=1)
    return max(_STRIDED, min(gap * size, _SECTOR) / (size * max(beside, 1)))
