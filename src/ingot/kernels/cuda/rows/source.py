"""CUDA C++ of a RowPlan for one choice of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ingot.graph import dtypes
from ingot.graph.dims import Dim, ceildiv, floordiv, mul
from ingot.graph.region import BodyOp
from ingot.kernels.api import Target
from ingot.kernels.cuda.rows.axes import Loop, vector_load
from ingot.kernels.cuda.rows.combine import Accumulator, accumulator, combine_block, combine_columns, combine_shuffled
from ingot.kernels.cuda.rows.plan import RowPlan
from ingot.kernels.cuda.rows.schedule import Schedule
from ingot.kernels.cuda.rows.text import (
    CudaText,
    c_type,
    literal,
    literal_type,
    load_pack,
    loaded,
    scalar_op,
    store_pack,
    stored,
)

TRIGGER = "pdl_trigger();"
WAIT = "pdl_wait();"
_PRELOADED = 16
"""Most elements of a constant tensor that a thread holds from before the wait."""


@dataclass(frozen=True)
class Threads:
    """How threads share the work."""

    per_row: int
    """Threads that share one row (or one vector of rows); a power of two, or the whole block."""
    block: int
    vector: int
    """Elements per access along the innermost axis."""
    held: int = 0
    """Vectors of a row that a thread keeps in registers; 0: later stages read memory again."""
    splits: int = 1
    """Blocks that share one row; above 1 the kernel writes partial results."""

    @property
    def slots(self) -> int:
        """Rows (or vectors of rows) per block."""
        return self.block // self.per_row


class RowSource:
    """Emits one kernel. With ``splits`` it stops at the accumulators; with ``finish`` it starts from them."""

    def __init__(self, plan: RowPlan, threads: Threads, target: Target, *, finish: bool = False) -> None:
        self.plan, self.threads, self.target, self.finish = plan, threads, target, finish
        self.out = CudaText(plan.region)
        self.by_column = plan.columns_inner or finish
        """Whether vector lanes are columns of one row (otherwise they are rows)."""
        self.vector = 1 if finish else threads.vector
        self.row_width = 1 if self.by_column else self.vector
        self.column_width = self.vector if self.by_column else 1
        self.units: Dim = threads.splits if finish else floordiv(plan.columns, self.column_width)
        self.index = {name: i for i, name in enumerate(plan.placed)}
        self.row_inputs = [n for n in plan.placed if n not in plan.full and n not in plan.region.outputs]
        self.value = {op.outputs[0]: i for i, op in enumerate(plan.ops)}
        self.sums = {op.outputs[0]: self._accumulator(op) for op in plan.ops if plan.is_reduction(op)}
        self.held = threads.held if not finish else 0
        self.schedule = Schedule(plan, bool(self.held))
        self.preloaded = [n for n in self.plan.full_inputs if self._preloads(n)]

    # -- what is done where

    def _accumulator(self, op: BodyOp) -> Accumulator:
        source = self.plan.prims.dtypes[op.inputs[0]]
        return accumulator(self.value[op.outputs[0]], op, source, 0 if self.by_column else self.vector)

    def _preloads(self, name: str) -> bool:
        small = 0 < self.held * self.vector <= _PRELOADED
        return small and self.plan.placed[name].spec.constant

    # -- the kernel

    def text(self, entry: str) -> str:
        """The kernel's CUDA C++."""
        self._head()
        self._row_loads(constant=True)
        for name in self.preloaded:
            self._declare_packs(name)
        if self.preloaded:
            self._load_loop(self.preloaded)
        self.out.line(WAIT)
        if not self.finish:
            for name in self.plan.full_inputs:
                if self.held and name not in self.preloaded:
                    self._declare_packs(name)
        self._row_loads(constant=False)
        for stage in range(self.plan.stages + 1):
            if self.threads.splits > 1 and not self.finish and stage > 0:
                break
            if self.threads.splits == 1 or self.finish:
                self._row_ops(stage)
            self._full_stage(stage)
            if stage == 0:
                self.out.line(TRIGGER)
            self._close(stage)
        return self.out.kernel(entry, self.threads.block)

    def _head(self) -> None:
        out, threads = self.out, self.threads
        if self.by_column:
            out.line(f"const int lane = threadIdx.x % {threads.per_row}, slot = threadIdx.x / {threads.per_row};")
        else:
            out.line(f"const int slot = threadIdx.x % {threads.slots}, lane = threadIdx.x / {threads.slots};")
        rows = out.number(self.plan.rows)
        out.line(f"const int first = (blockIdx.x * {threads.slots} + slot) * {self.row_width};")
        out.line(f"const bool live = first < {rows};")
        out.line("const int row = live ? first : 0;")
        names = out.split("row", "k", [loop.size for loop in self.plan.kept])
        for name, i in self.index.items():
            code = out.offset([(k, loop.strides[name]) for k, loop in zip(names, self.plan.kept, strict=True)])
            if code != "0":
                out.line(f"const long long o{i} = {code};")
        units = out.number(self.units)
        if threads.splits > 1 and not self.finish:
            share = out.number(ceildiv(self.units, threads.splits))
            out.line(f"const int begin = blockIdx.y * {share};")
            out.line(f"const int end = live ? (begin + {share} < {units} ? begin + {share} : {units}) : begin;")
        else:
            out.line(f"constexpr int begin = 0; const int end = live ? {units} : 0;")

    def _base(self, name: str) -> str:
        source = self.plan.source(name)
        outputs = self.plan.region.outputs
        pointer = self.out.output(name) if name in outputs else self.out.input(source)
        moved = any(loop.strides[name] != 0 for loop in self.plan.kept)
        return f"{pointer} + o{self.index[name]}" if moved else pointer

    def _lane_loop(self) -> Loop | None:
        loops = self.plan.reduced if self.by_column else self.plan.kept
        return loops[-1] if loops else None

    def _width(self, name: str) -> int:
        """Elements of a tensor per access: as many as there are vector lanes along which it varies."""
        loop = self._lane_loop()
        if loop is None or loop.strides[name] == 0 or self.finish:
            return 1
        if self.by_column and name not in self.plan.full:
            return 1
        return self.vector

    def _access(self, name: str) -> tuple[str, int, Dim, bool]:
        """Type, width, lane stride, and whether the access is one vector."""
        spec = self.plan.placed[name].spec
        width, loop = self._width(name), self._lane_loop()
        if width == 1 or loop is None:
            return spec.dtype, 1, 1, False
        others = [other for other in (*self.plan.kept, *self.plan.reduced) if other is not loop]
        vector = vector_load(name, spec, loop, others, width, dtypes.itemsize(spec.dtype))
        return spec.dtype, width, loop.strides[name], vector

    def _pack_type(self, name: str) -> str:
        dtype, width, _, _ = self._access(name)
        return f"vec_t<{dtypes.TABLE[dtype].cuda}, {width}>"

    def _row_loads(self, *, constant: bool) -> None:
        if self.threads.splits > 1 and not self.finish:
            wanted = {n for op in self.schedule.needed(0)[0] for n in self.plan.reads(op)}
        else:
            wanted = set(self.row_inputs)
        for name in self.row_inputs:
            if name in wanted and self.plan.placed[name].spec.constant == constant:
                dtype, width, stride, vector = self._access(name)
                self.out.line(f"{self._pack_type(name)} p{self.index[name]};")
                load_pack(self.out, f"p{self.index[name]}", self._base(name), dtype, width, stride, vector=vector)

    def _declare_packs(self, name: str) -> None:
        self.out.line(f"{self._pack_type(name)} p{self.index[name]}[{self.held}];")

    # -- loops over columns

    @contextmanager
    def _columns(self) -> Iterator[None]:
        """A loop over this thread's vectors of columns; inside, ``e`` counts them and ``c`` is the column."""
        out, threads = self.out, self.threads
        if self.held:
            with out.unrolled("e", self.held):
                out.line(f"const int u = e * {threads.per_row} + lane;")
                with out.block("if (u < end)"):
                    self._coordinates()
                    yield
            return
        out.line("#pragma unroll 4")
        with out.block(f"for (int u = begin + lane; u < end; u += {threads.per_row})"):
            self._coordinates()
            yield

    def _coordinates(self) -> None:
        self.out.line(f"const int c = u * {self.column_width};" if self.column_width > 1 else "const int c = u;")
        self.out.split("c", "r", [loop.size for loop in self.plan.reduced])

    def _at_column(self, name: str) -> str:
        steps = [(f"r{i}", loop.strides[name]) for i, loop in enumerate(self.plan.reduced)]
        offset = self.out.offset(steps)
        return self._base(name) + ("" if offset == "0" else f" + {offset}")

    def _load_loop(self, names: list[str]) -> None:
        with self._columns():
            for name in names:
                dtype, width, stride, vector = self._access(name)
                load_pack(
                    self.out, f"p{self.index[name]}[e]", self._at_column(name), dtype, width, stride, vector=vector
                )

    def _full_stage(self, stage: int) -> None:
        if self.finish:
            if stage == 0:
                self._partials()
            return
        ops, reads = self.schedule.needed(stage)
        sums, stores = (
            [self.sums[op.outputs[0]] for op in self.schedule.reductions(stage)],
            self.schedule.full_outputs(stage),
        )
        for item in sums:
            item.declare(self.out)
        if not sums and not stores and not (self.held and ops):
            return
        if self.held:
            fresh = [n for n in reads if n not in self.preloaded and self.schedule.stage_of[n] == stage]
            for op in ops:
                if self.schedule.held_value(op.outputs[0]):
                    kind = c_type(self.plan.prims.dtypes[op.outputs[0]])
                    self.out.line(f"{kind} h{self.value[op.outputs[0]]}[{self.held}][{self.vector}];")
            if fresh:
                self._load_loop(fresh)  # all loads are issued before the first is used
        with self._columns():
            if not self.held:
                for name in reads:
                    dtype, width, stride, vector = self._access(name)
                    self.out.line(f"{self._pack_type(name)} p{self.index[name]};")
                    load_pack(
                        self.out, f"p{self.index[name]}", self._at_column(name), dtype, width, stride, vector=vector
                    )
            self._lanes(stage, ops, stores)

    def _lanes(self, stage: int, ops: list[BodyOp], stores: list[str]) -> None:
        """The arithmetic of one vector, then its stores."""
        out, plan = self.out, self.plan
        for name in stores:
            out.line(f"{self._pack_type(name)} q{self.index[name]};")
        with out.unrolled("j", self.vector):
            local = {op.outputs[0] for op in ops}
            for op in ops:
                name = op.outputs[0]
                out.line(f"const {c_type(plan.prims.dtypes[name])} t{self.value[name]} = {self._code(op, local)};")
                if self.held and self.schedule.held_value(name):
                    out.line(f"h{self.value[name]}[e][j] = t{self.value[name]};")
            for name in stores:
                value = stored(self._read(name, local), plan.prims.dtypes[name], plan.placed[name].spec.dtype)
                out.line(f"q{self.index[name]}.v[{'j' if self._width(name) > 1 else 0}] = {value};")
            for op in self.schedule.reductions(stage):
                item = self.sums[op.outputs[0]]
                position = "c + j" if self.column_width > 1 else "c"
                out.line(item.merge(self._read(op.inputs[0], local), item.at("j"), f"({position})", item.at("j", "i")))
        for name in stores:
            dtype, width, stride, vector = self._access(name)
            store_pack(out, f"q{self.index[name]}", self._at_column(name), dtype, width, stride, vector=vector)

    def _code(self, op: BodyOp, local: set[str]) -> str:
        arguments = [self._argument(op, name, local) for name in op.inputs]
        code = scalar_op(op, arguments, self.plan.prims.dtypes, self.plan.prims.literals)
        assert isinstance(code, str), code
        return code

    def _argument(self, op: BodyOp, name: str, local: set[str]) -> str:
        literals = self.plan.prims.literals
        if name in literals:
            return literal(literals[name], literal_type(op, name, self.plan.prims.dtypes, literals))
        return self._read(name, local) if name else ""

    def _read(self, name: str, local: set[str]) -> str:
        """Code of a value at the current vector lane."""
        if name in self.index and name not in self.value:
            lane = "j" if self._width(name) > 1 else "0"
            row = "[e]" if self.held and name in self.plan.full else ""
            return loaded(f"p{self.index[name]}{row}.v[{lane}]", self.plan.placed[name].spec.dtype)
        if name in local:
            return f"t{self.value[name]}"
        if name in self.plan.full:
            return f"h{self.value[name]}[e][j]"
        return f"w{self.value[name]}" + ("[j]" if self.row_width > 1 else "")

    # -- between the loops

    def _close(self, stage: int) -> None:
        """Puts the threads' accumulators together and names the results."""
        sums = [(op, self.sums[op.outputs[0]]) for op in self.schedule.reductions(stage)]
        if not sums:
            return
        threads, items = self.threads, [item for _, item in sums]
        if not self.by_column:
            combine_columns(self.out, items, threads.per_row, threads.slots)
        elif threads.per_row > 32:
            combine_block(self.out, items, threads.block)
        else:
            for item in items:
                combine_shuffled(self.out, item, threads.per_row)
        if threads.splits > 1 and not self.finish:
            self._write_partials(items)
            return
        columns = self.out.number(self.plan.columns)
        for op, item in sums:
            self._row_value(op, lambda lane, item=item: item.result(columns, lane))

    def _row_value(self, op: BodyOp, code: object) -> None:
        assert callable(code)
        name = op.outputs[0]
        kind, number = c_type(self.plan.prims.dtypes[name]), self.value[name]
        if self.row_width == 1:
            self.out.line(f"const {kind} w{number} = {code('0')};")
        else:
            self.out.line(f"{kind} w{number}[{self.row_width}];")
            self.out.line("#pragma unroll")
            self.out.line(f"for (int j = 0; j < {self.row_width}; ++j) w{number}[j] = {code('j')};")
        if name in self.plan.region.outputs:
            self._store_row(name)

    def _row_ops(self, stage: int) -> None:
        for op in self.plan.ops:
            name = op.outputs[0]
            if name in self.plan.full or self.plan.is_reduction(op) or self.plan.level[name] != stage:
                continue
            self._row_value(op, lambda _, op=op: self._code(op, set()))

    def _store_row(self, name: str) -> None:
        out, width = self.out, self.row_width
        place = self.plan.placed[name]
        with out.block("if (live && lane == 0)"):
            dtype, access, stride, vector = self._access(name)
            out.line(f"vec_t<{dtypes.TABLE[dtype].cuda}, {width}> q;")
            for lane in range(width):
                read = f"w{self.value[name]}" + (f"[{lane}]" if width > 1 else "")
                out.line(f"q.v[{lane}] = {stored(read, self.plan.prims.dtypes[name], place.spec.dtype)};")
            store_pack(out, "q", self._base(name), dtype, access, stride, vector=vector)

    # -- partial results of split rows

    def _partial(self, number: int, item: Accumulator, row: str, part: str) -> str:
        base = self.out.scratch(number, item.kind)
        return f"{base}[(long long){part} * {self.out.number(self.plan.rows)} + {row}]"

    def _slots_of(self, items: list[Accumulator]) -> list[tuple[int, int, Accumulator]]:
        """Workspace numbers of value and position of each accumulator."""
        numbers, next_number = [], 0
        for item in items:
            numbers.append((next_number, next_number + 1, item))
            next_number += 2 if item.positional else 1
        return numbers

    def _write_partials(self, items: list[Accumulator]) -> None:
        with self.out.block("if (live && lane == 0)"):
            for number, position, item in self._slots_of(items):
                for lane in range(self.row_width):
                    target = self._partial(number, item, f"row + {lane}", "blockIdx.y")
                    self.out.line(f"{target} = {item.at(str(lane))};")
                    if item.positional:
                        base = self.out.scratch(position, "int")
                        place = f"(long long)blockIdx.y * {self.out.number(self.plan.rows)} + row + {lane}"
                        self.out.line(f"{base}[{place}] = {item.at(str(lane), 'i')};")

    def _partials(self) -> None:
        items = [self.sums[op.outputs[0]] for op in self.schedule.reductions(0)]
        for item in items:
            item.declare(self.out)
        with self.out.block(f"for (int u = lane; u < end; u += {self.threads.per_row})"):
            for number, position, item in self._slots_of(items):
                place = f"(long long)u * {self.out.number(self.plan.rows)} + row"
                value = f"{self.out.scratch(number, item.kind)}[{place}]"
                where = f"{self.out.scratch(position, 'int')}[{place}]" if item.positional else ""
                self.out.line(item.merge(value, item.name, where, f"{item.name}i"))


def workspace_bytes(plan: RowPlan, splits: int) -> list[Dim]:
    """Bytes of the workspaces a split kernel writes its partial results to."""
    source = RowSource(plan, Threads(32, 32, 1, splits=2), Target(80))
    sizes: list[Dim] = []
    for item in source.sums.values():
        sizes.append(mul(plan.rows, splits * dtypes.itemsize(item.dtype)))
        if item.positional:
            sizes.append(mul(plan.rows, splits * 4))
    return sizes


def finishing(threads: Threads) -> Threads:
    """Threads of the second kernel of a split reduction: a warp per row."""
    return replace(threads, per_row=32, block=128, vector=1, held=0)
