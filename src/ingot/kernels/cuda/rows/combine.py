"""Reductions in generated code: accumulators, their update, and how threads put theirs together."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.graph import dtypes
from ingot.graph.region import BodyOp
from ingot.kernels.cuda.rows.text import CudaText, c_type, highest, literal, lowest


@dataclass(frozen=True)
class Accumulator:
    """One reduction's running value: variable ``name`` (and ``name``i, the position, for arg-reductions).

    ``width`` accumulators lie side by side when the vector lanes are different rows (0: a plain variable).
    """

    name: str
    op: str
    source: str
    """Arithmetic type of what is reduced."""
    last: bool
    width: int

    @property
    def dtype(self) -> str:
        """Type of the running value: integers are summed in 64 bits."""
        if dtypes.is_float(self.source) or self.op not in ("ReduceSum", "ReduceMean", "ReduceProd"):
            return self.source
        return "uint64" if self.source.startswith("uint") else "int64"

    @property
    def positional(self) -> bool:
        """Whether a position is kept beside the value."""
        return self.op.startswith("Arg")

    @property
    def kind(self) -> str:
        """C++ type of the running value."""
        return c_type(self.dtype)

    @property
    def start(self) -> str:
        """Code of the neutral value."""
        if self.op in ("ReduceMax", "ArgMax"):
            return lowest(self.dtype)
        if self.op in ("ReduceMin", "ArgMin"):
            return highest(self.dtype)
        return literal(1 if self.op == "ReduceProd" else 0, self.dtype)

    @property
    def start_position(self) -> str:
        """Code of a position that loses every tie."""
        return "-1" if self.last else "0x7fffffff"

    def at(self, lane: str, part: str = "") -> str:
        """The variable (``part`` "i": its position) of one vector lane."""
        return f"{self.name}{part}" + (f"[{lane}]" if self.width else "")

    def merge(self, value: str, into: str, position: str = "", into_position: str = "") -> str:
        """Statement that merges ``value`` into a running value."""
        if self.positional:
            better = f"{value} {'>' if self.op == 'ArgMax' else '<'} {into}"
            tie = f"{value} == {into} && {position} {'>' if self.last else '<'} {into_position}"
            return f"if ({better} || ({tie})) {{ {into} = {value}; {into_position} = {position}; }}"
        match self.op:
            case "ReduceMax":
                return f"{into} = ingot_larger({into}, ({self.kind}){value});"
            case "ReduceMin":
                return f"{into} = ingot_smaller({into}, ({self.kind}){value});"
            case "ReduceProd":
                return f"{into} *= {value};"
        return f"{into} += {value};"

    def declare(self, out: CudaText) -> None:
        """Declares the accumulator, neutral."""
        if self.width:
            out.line(f"{self.kind} {self.name}[{self.width}];")
            if self.positional:
                out.line(f"int {self.name}i[{self.width}];")
            out.line("#pragma unroll")
            reset = f"{self.at('j')} = {self.start};"
            if self.positional:
                reset += f" {self.at('j', 'i')} = {self.start_position};"
            out.line(f"for (int j = 0; j < {self.width}; ++j) {{ {reset} }}")
            return
        out.line(f"{self.kind} {self.name} = {self.start};")
        if self.positional:
            out.line(f"int {self.name}i = {self.start_position};")

    def result(self, columns: str, lane: str) -> str:
        """Code of the reduction's result."""
        value = self.at(lane)
        if self.positional:
            position = self.at(lane, "i")
            empty = f"{position} < 0" if self.last else f"{position} == 0x7fffffff"
            return f"(long long)({empty} ? 0 : {position})"
        if self.op == "ReduceMean":
            value = f"{value} / ({self.kind}){columns}"
        return f"({c_type(self.source)})({value})"


def accumulator(index: int, op: BodyOp, source: str, width: int) -> Accumulator:
    """The accumulator of reduction ``op`` over values of type ``source``."""
    return Accumulator(f"a{index}", op.op, source, bool(op.attr("select_last_index", 0)), width)


def combine_shuffled(out: CudaText, item: Accumulator, width: int) -> None:
    """Every thread of ``width`` neighbours (a power of two, at most 32) gets their common value."""
    if width == 1:
        return
    out.line("#pragma unroll")
    with out.block(f"for (int s = {width // 2}; s > 0; s >>= 1)"):
        out.line(f"const {item.kind} other = __shfl_xor_sync(0xffffffffu, {item.name}, s);")
        if item.positional:
            out.line(f"const int otheri = __shfl_xor_sync(0xffffffffu, {item.name}i, s);")
        out.line(item.merge("other", item.name, "otheri", f"{item.name}i"))


def combine_block(out: CudaText, items: list[Accumulator], threads: int) -> None:
    """Every thread of the block gets the common value of all ``threads`` (a multiple of 32)."""
    warps = threads // 32
    for item in items:
        combine_shuffled(out, item, 32)
        out.line(f"__shared__ {item.kind} {item.name}s[{warps}];")
        if item.positional:
            out.line(f"__shared__ int {item.name}is[{warps}];")
    with out.block("if (threadIdx.x % 32 == 0)"):
        for item in items:
            out.line(f"{item.name}s[threadIdx.x / 32] = {item.name};")
            if item.positional:
                out.line(f"{item.name}is[threadIdx.x / 32] = {item.name}i;")
    out.line("__syncthreads();")
    # Reading all warps' values in order keeps the result the same in every thread and every run.
    for item in items:
        out.line(f"{item.name} = {item.name}s[0];")
        if item.positional:
            out.line(f"{item.name}i = {item.name}is[0];")
        if warps > 1:
            out.line("#pragma unroll")
            merge = item.merge(f"{item.name}s[s]", item.name, f"{item.name}is[s]", f"{item.name}i")
            out.line(f"for (int s = 1; s < {warps}; ++s) {{ {merge} }}")


def combine_columns(out: CudaText, items: list[Accumulator], across: int, slots: int) -> None:
    """Threads of equal ``slot`` (one for each ``lane`` of ``across``, a power of two) get their common values."""
    if across == 1:
        return
    for item in items:
        out.line(f"__shared__ {item.kind} {item.name}s[{across // 2 * slots * item.width}];")
        if item.positional:
            out.line(f"__shared__ int {item.name}is[{across // 2 * slots * item.width}];")
    _columns_tree(out, items, across, slots)
    with out.block("if (lane == 0)"):
        _columns_copy(out, items, slots, "slot", to_shared=True)
    out.line("__syncthreads();")
    _columns_copy(out, items, slots, "slot", to_shared=False)


def _columns_tree(out: CudaText, items: list[Accumulator], across: int, slots: int) -> None:
    half = across // 2
    while half:
        with out.block(f"if (lane >= {half} && lane < {2 * half})"):
            _columns_copy(out, items, slots, f"(lane - {half}) * {slots} + slot", to_shared=True)
        out.line("__syncthreads();")
        with out.block(f"if (lane < {half})"):
            for item in items:
                place = f"(lane * {slots} + slot) * {item.width} + j"
                merge = item.merge(f"{item.name}s[{place}]", item.at("j"), f"{item.name}is[{place}]", item.at("j", "i"))
                out.line("#pragma unroll")
                out.line(f"for (int j = 0; j < {item.width}; ++j) {{ {merge} }}")
        out.line("__syncthreads();")
        half //= 2


def _columns_copy(out: CudaText, items: list[Accumulator], slots: int, where: str, *, to_shared: bool) -> None:
    for item in items:
        place = f"({where}) * {item.width} + j"
        pairs = [(f"{item.name}s[{place}]", item.at("j"))]
        if item.positional:
            pairs.append((f"{item.name}is[{place}]", item.at("j", "i")))
        moves = " ".join(f"{shared} = {own};" if to_shared else f"{own} = {shared};" for shared, own in pairs)
        out.line("#pragma unroll")
        out.line(f"for (int j = 0; j < {item.width}; ++j) {{ {moves} }}")
