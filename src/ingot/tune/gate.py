"""The numeric gate: no variant is timed, recorded or chosen whose results are wrong.

Outputs are compared with the Region's high-precision reference. Before a run the whole output
memory is filled with a poison byte, so unwritten elements, and writes into the gaps of a strided
output, show. Outputs too large to compare in full are compared at the reference's indices of the
leading dimension and, in random blocks of all of their memory, with the first variant that passed.
Quantized outputs are compared with what they were rounded from: see ``steps``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.coarse import coarse
from ingot.graph.region import BodyOp, Kind, Region
from ingot.plugins.registry import active
from ingot.tune.steps import Steps
from ingot.tune.storage import Array, Stored

Fetch = Callable[[int, int], NDArray[np.uint8]]
"""(offset, size) -> that many bytes of one output's memory."""

TOLERANCE = {
    "float64": 1e-11, "float32": 1e-5, "tf32": 2e-3, "float16": 5e-3, "bfloat16": 2e-2, "float8_e4m3fn": 4e-2,
}  # fmt: skip
"""Largest norm of the error over the norm of the reference, by the least precise type in the Region."""
ELEMENT_FACTOR = 10.0
"""One element may be off by this many tolerances of (its size + the root mean square of all)."""
POISONS = (0xFF, 0x5A)
"""Fill bytes of the first and the second run. 0xFF is NaN in every float and no bool."""

_FULL_BYTES = 2 << 20
"""Larger outputs are compared in part: host time per variant stays at a few hundredths of a second."""
_BLOCKS, _BLOCK_BYTES = 32, 1 << 16
_OUTLIERS = 1e-3
_JUMPS = frozenset({
    "Floor", "Ceil", "Round", "Sign", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Cast",
    "BitCast", "QuantizeLinear", "ArgMax", "ArgMin", "MaxPool", "TopK", "ThresholdedRelu",
})  # fmt: skip
"""Ops whose result may jump where the argument is off by a rounding error."""


def tolerance(region: Region, *, tf32: bool) -> float:
    """Allowed relative error of the Region: a plugin's own, or by the least precise floating type among its values.

    Where results are bytes of long steps, what is rounded to them need not be more precise than a float16.
    """
    plugin = active().find(region.ops[0].domain, region.ops[0].op) if region.kind is Kind.PLUGIN else None
    if plugin is not None and plugin.tolerance is not None:
        return plugin.tolerance
    found = {tensor.dtype for _, tensor in region.values if dtypes.is_float(tensor.dtype)}
    names = ["tf32"] if tf32 and "float32" in found and region.kind in (Kind.CONV, Kind.GEMM, Kind.ATTENTION) else []
    names += ["float16"] if coarse(region) else []
    return max((TOLERANCE[name] for name in (*found, *names)), default=0.0)


def outliers(region: Region) -> float:
    """Share of the elements that may differ freely: not 0 only where rounding can make a result jump."""
    floating = any(dtypes.is_float(tensor.dtype) for tensor in region.input_specs)
    return _OUTLIERS if floating and any(op.op in _JUMPS and not _smooth(op, region) for op in region.ops) else 0.0


def _smooth(op: BodyOp, region: Region) -> bool:
    """A Cast between floats, and a MaxPool without indices, do not jump."""
    return op.op in ("Cast", "MaxPool") and all(
        dtypes.is_float(region.spec_of[name].dtype) for name in op.outputs if name
    )


def compare(result: Array, reference: Array, allowed: float, spare: float = 0.0) -> Answer:
    """Whether ``result`` is ``reference`` up to a relative error ``allowed``.

    ``spare`` is the share of elements that may differ freely (rounded up). NaN and infinities must be
    where the reference has them. Without ``allowed``, and for integers, equality is asked for.
    """
    if result.shape != reference.shape:
        return No(f"shape {result.shape} instead of {reference.shape}")
    if not result.size:
        return YES
    quota = int(np.ceil(spare * result.size)) if spare else 0
    if not _floating(result):
        wrong = result != reference.astype(result.dtype)
        return _verdict(wrong, quota, "differ")
    # float32 is half the work, and squares of float16 do not overflow it.
    wide: type[np.floating[Any]] = np.float32 if result.dtype == np.float16 else np.float64
    out, want = result.astype(wide), reference.astype(result.dtype).astype(wide)
    finite = np.isfinite(want)
    if finite.all() and np.isfinite(out).all():
        return _closeness(out.reshape(-1), want.reshape(-1), allowed, quota)
    strange = np.where(finite, ~np.isfinite(out), ~((out == want) | (np.isnan(out) & np.isnan(want))))
    if not (answer := _verdict(strange, quota, "are NaN, infinite or unwritten")):
        return answer
    usable = finite & ~strange
    return _closeness(out[usable], want[usable], allowed, quota)


def _closeness(out: NDArray[Any], want: NDArray[Any], allowed: float, quota: int) -> Answer:
    """Both flat and finite."""
    if not want.size:
        return YES
    error = np.abs(out - want)
    bound = np.abs(want)
    bound += float(np.sqrt(np.dot(want, want) / want.size))
    bound *= ELEMENT_FACTOR * allowed
    far = error > bound
    if not (answer := _verdict(far, quota, "are off")):
        worst = int(np.argmax(np.where(far, error, 0)))
        return No(f"{answer}; for example {out[worst]:.6g} instead of {want[worst]:.6g}")
    if far.any():
        error, want = error[~far], want[~far]
    norm = float(np.linalg.norm(want))
    relative = float(np.linalg.norm(error)) / norm if norm else float(np.max(error, initial=0.0))
    if relative > allowed:
        return No(f"relative error {relative:.2e} is above {allowed:.0e}")
    return YES


def _verdict(wrong: NDArray[np.bool_], quota: int, what: str) -> Answer:
    count = int(np.count_nonzero(wrong))
    return YES if count <= quota else No(f"{count} of {wrong.size} elements {what}")


def _floating(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name in dtypes.WIDENED


@dataclass
class OutputGate:
    """The gate of one output. Keeps what the first accepted variant computed, for large outputs."""

    stored: Stored
    reference: Array
    """Logical; restricted to ``rows`` of the leading dimension if those are given. With ``steps`` the ideal ones."""
    allowed: float
    spare: float = 0.0
    rows: Sequence[int] | None = None
    steps: Steps | None = None
    _peers: list[Array] | None = field(default=None, init=False)

    def check(self, fetch: Fetch, poison: int) -> Answer:
        """Compare one run's output memory, which held ``poison`` before."""
        return self._check_part(fetch) if self._partial() else self._check_whole(fetch, poison)

    def content(self, fetch: Fetch) -> bytes:
        """The bytes that the kernels own (or the compared blocks of them): equal runs have equal content."""
        return b"".join(np.ascontiguousarray(block).tobytes() for block in self._blocks(fetch))

    def accept(self, fetch: Fetch) -> None:
        """The variant passed every check: later ones are compared with what it left in memory."""
        if self.rows is not None and self._peers is None:
            self._peers = self._blocks(fetch)

    def _partial(self) -> bool:
        """Whether only part of the memory is fetched."""
        large = self.rows is not None and self.stored.nbytes > _FULL_BYTES
        return large and not self.stored.gaps and self.stored.rows() is not None

    def _flat(self, fetch: Fetch) -> Array:
        return fetch(0, self.stored.nbytes).view(self.stored.numpy)

    def _check_whole(self, fetch: Fetch, poison: int) -> Answer:
        if not self.stored.extent:
            return YES
        flat = self._flat(fetch)
        if self.stored.gaps:
            size = self.stored.numpy.itemsize
            gaps = flat.view(np.uint8).reshape(-1, size)[~self.stored.owned()]
            if (gaps != poison).any():
                return No("wrote between the elements of a strided output")
        result = self.stored.window(flat)
        if self.stored.dtype == "bool" and (result.view(np.uint8) > 1).any():
            return No("a bool is neither 0 nor 1, or was not written")
        if self.rows is None:
            return self._compare(result, self.reference)
        answer = self._compare(result[list(self.rows)], self.reference)
        return answer and self._against_peers([result])

    def _check_part(self, fetch: Fetch) -> Answer:
        layout, size = self.stored.rows(), self.stored.numpy.itemsize
        assert layout is not None and self.rows is not None
        step, extent = layout
        rows = np.asarray(self.rows)
        position = 0
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            count = len(run)
            flat = fetch(int(run[0]) * step * size, ((count - 1) * step + extent) * size).view(self.stored.numpy)
            part = Stored(self.stored.dtype, (count, *self.stored.shape[1:]), self.stored.strides, 1, False)
            reference = self.reference[position : position + count]
            answer = self._compare(part.window(flat), reference)
            if not answer:
                return answer
            position += count
        return self._against_peers(self._blocks(fetch))

    def _against_peers(self, blocks: Sequence[Array]) -> Answer:
        """Compare what has no reference with the first accepted variant."""
        if self._peers is None:
            return self._plausible(blocks)
        answers = (self._compare_peers(a, b) for a, b in zip(blocks, self._peers, strict=True))
        wrong = next((answer for answer in answers if not answer), None)
        return YES if wrong is None else No(f"disagrees with an accepted variant: {wrong}")

    def _compare(self, result: Array, reference: Array) -> Answer:
        if self.steps is None:
            return compare(result, reference, self.allowed, self.spare)
        wrong = self.steps.off(result, reference, ELEMENT_FACTOR * self.allowed)
        return _verdict(wrong, int(np.ceil(self.spare * wrong.size)), "are not the nearest step")

    def _compare_peers(self, result: Array, other: Array) -> Answer:
        if self.steps is None:  # two results within the tolerance of the truth are within twice that of each other
            return compare(result, other, 2 * self.allowed, self.spare)
        wrong = self.steps.apart(result, other)
        return _verdict(wrong, int(np.ceil(self.spare * wrong.size)), "are more than a step apart")

    def _plausible(self, blocks: Sequence[Array]) -> Answer:
        """Without anything to compare with: NaN, which is also what is unwritten, only if the reference has any."""
        if not _floating(blocks[0]) or np.isnan(self.reference.astype(np.float64)).any():
            return YES
        wrong = np.concatenate([np.isnan(block.astype(np.float32)).reshape(-1) for block in blocks])
        return _verdict(wrong, 0, "looked at are NaN or unwritten")

    def _blocks(self, fetch: Fetch) -> list[Array]:
        """All of the output; of a large one, the same random blocks every time."""
        if not self.stored.extent:
            return []
        if not self._partial():
            return [self.stored.window(self._flat(fetch))]
        generator = np.random.default_rng(self.stored.nbytes)
        starts = generator.integers(0, self.stored.nbytes // _BLOCK_BYTES, _BLOCKS)
        return [fetch(int(start) * _BLOCK_BYTES, _BLOCK_BYTES).view(self.stored.numpy) for start in starts]
