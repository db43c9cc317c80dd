"""CUDA C++ of a map kernel: a thread makes vectors of elements that follow each other in the output."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.graph.dims import Dim, ceildiv, divisible, floordiv, maximum
from ingot.kernels.api import Argument
from ingot.kernels.cuda.maps.algebra import canonical, minus, plus, times
from ingot.kernels.cuda.maps.emit import Emitter, Walk
from ingot.kernels.cuda.maps.helpers import MAP_HELPERS
from ingot.kernels.cuda.maps.index import Index
from ingot.kernels.cuda.maps.moves import MOVES
from ingot.kernels.cuda.maps.plan import MapPlan, Space
from ingot.kernels.cuda.maps.pull import Access, Puller

_INT_MAX = (1 << 31) - 1


@dataclass(frozen=True)
class Shape1D:
    """How the work is cut: lanes of a thread's vector, vectors of a thread, threads of a block."""

    vector: int
    each: int
    block: int


class MapSource:
    """Emits one kernel for a MapPlan. Raises Refused when an op has no code."""

    def __init__(self, plan: MapPlan, cut: Shape1D, entry: str) -> None:
        self.plan, self.cut, self.entry = plan, cut, entry
        self.em = Emitter(plan.region)
        self.puller = Puller(plan.region, self.em, MOVES)
        self.grid: Dim = 0
        self.em.line("pdl_wait();")
        for position, space in enumerate(plan.spaces):
            self._space(space, last=position == len(plan.spaces) - 1)
        self.text = MAP_HELPERS + wrapped(self.em, plan, cut.block, entry)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What to pass to the kernel."""
        return self.em.text.arguments

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Loads and stores of one thread, for each of its vectors."""
        return tuple(self.puller.accesses)

    # -- one space

    def _space(self, space: Space, *, last: bool) -> None:
        em, cut = self.em, self.cut
        units = canonical(floordiv(space.total, cut.vector))
        blocks = canonical(maximum(1, ceildiv(units, cut.block * cut.each)))
        start, self.grid = self.grid, plus(self.grid, blocks)
        with em.block("" if last else f"if (blockIdx.x < {em.text.number(self.grid)})"):
            code = "blockIdx.x" if start == 0 else f"(blockIdx.x - {em.text.number(start)})"
            em.line(f"const linear_t first = (linear_t){code} * {cut.block * cut.each} + threadIdx.x;")
            with em.block(f"if (first < {em.text.number(units)})"):
                self._vectors(space, units)
            if not divisible(space.total, cut.vector):
                self._tail(space, units, blocks, code)
            if not last:
                em.line("return;")

    def _vectors(self, space: Space, units: Dim) -> None:
        """Loads and arithmetic of all the thread's vectors, then their stores."""
        em, cut, index = self.em, self.cut, space.index()
        walks: list[tuple[dict[str, Walk], dict[object, object]]] = []
        for k in range(cut.each):
            place = f"first + {k * cut.block}" if k else "first"
            if k:
                # What lies past the end is read at the end, and not written.
                em.line(f"const bool inside{k} = {place} < {em.text.number(units)};")
                place = f"(inside{k} ? {place} : (linear_t){em.text.number(units)} - 1)"
            factor = f" * {cut.vector}" if cut.vector > 1 else ""
            em.line(f"const linear_t t_{k} = {place}{factor};")
            walks.append(({"t": Walk(f"t_{k}", space.total, cut.vector)}, {}))
            with em.walking(*walks[-1]):
                self.puller.settle(space.outputs, index)
        em.line("pdl_trigger();")
        for k, (walk, known) in enumerate(walks):
            with em.walking(walk, known):
                if k:
                    with em.block(f"if (inside{k})"):
                        self._stores(space, index)
                else:
                    self._stores(space, index)

    def _stores(self, space: Space, index: Index) -> None:
        for name in space.outputs:
            self.puller.write(name, index)

    def _tail(self, space: Space, units: Dim, blocks: Dim, code: str) -> None:
        """The elements after the last whole vector, one by one, by threads of the last block."""
        em = self.em
        done = times(units, self.cut.vector)
        rest = em.text.number(minus(space.total, done))
        accesses = list(self.puller.accesses)
        with em.block(f"if ({code} == {em.text.number(minus(blocks, 1))} && threadIdx.x < {rest})"):
            em.line(f"const linear_t t_rest = (linear_t){em.text.number(done)} + threadIdx.x;")
            with em.walking({"t": Walk("t_rest", space.total)}):
                self.puller.settle(space.outputs, space.index())
                self._stores(space, space.index())
        self.puller.accesses[:] = accesses


def wrapped(em: Emitter, plan: MapPlan, threads: int, entry: str) -> str:
    """The kernel around the lines of ``em``: in 32-bit arithmetic, 64-bit, or whichever the bindings need."""
    head = f'extern "C" __global__ void __launch_bounds__({threads}) {entry}'
    text = em.text
    choice = ""
    if plan.may_fit_int and not plan.fits_int:
        assert isinstance(plan.extent, str)
        choice = text.parameter(plan.extent)
    declared = text.declared
    body = "\n".join(text.lines)
    if not choice:
        kinds = ("int", "unsigned int") if plan.fits_int else ("long long", "unsigned long long")
        types = f"  typedef {kinds[0]} index_t;\n  typedef {kinds[1]} linear_t;"
        return f"{head}({declared}) {{\n{types}\n{body}\n}}\n"
    passed = ", ".join(text.parameters)
    return (
        f"template <typename index_t, typename linear_t> INGOT_INLINE void {entry}_body({declared}) {{\n{body}\n}}\n"
        f"{head}({declared}) {{\n"
        f"  if ({choice} <= {_INT_MAX}) {entry}_body<int, unsigned int>({passed});\n"
        f"  else {entry}_body<long long, unsigned long long>({passed});\n}}\n"
    )
