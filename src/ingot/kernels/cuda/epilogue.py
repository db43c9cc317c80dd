"""Epilogues as CUDA C++: a struct that fetches what a row of eight columns needs, computes, and stores it.

Everything is fetched before anything is computed, so that loads are in flight together, and every
element of a tensor is read by the lane that writes the element of the result: results may lie
where an operand lay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp, Region
from ingot.graph.scalar_quantize import LIMITS, SATURATED
from ingot.kernels.cuda.product import Product, flat_offset
from ingot.kernels.cuda.rows.text import (
    CudaText,
    access_width,
    arithmetic_types,
    literal,
    literal_type,
    loaded,
    scalar_literals,
    scalar_op,
    stored,
)
from ingot.kernels.triton.indexing import broadcast_strides

WIDTH = 8
"""Columns of a lane, where the kernel does not say otherwise."""


@dataclass
class EpilogueText:
    """Emits ``struct Epilogue`` for one Region; parameters are collected in ``out``."""

    o: Product
    columns: int
    """Columns of a tile."""
    rows: Dim
    """Rows that the kernel goes over."""
    wide: Dim | None = None
    """Rows for one line of the output where some of them are no results; None: every row is one."""
    lane: int = WIDTH
    """Columns of a lane."""
    scales: tuple[str, str] | None = None
    """Inputs, one number a column, whose quotients the sums of a first product are multiplied by; None: no such."""
    out: CudaText = field(init=False)

    def __post_init__(self) -> None:
        self.region: Region = self.o.normal.region
        self.out = CudaText(self.region)
        literals = scalar_literals(self.region)
        assert isinstance(literals, dict)
        self.literals, self.kinds = literals, arithmetic_types(self.region)
        region = self.region
        read = [n for op in self.o.normal.epilogue for n in op.inputs]
        self.tensors = [n for n in region.inputs if n in read]
        self.number = {name: i for i, name in enumerate((*region.inputs, *region.outputs))}

    # -- where tensors lie

    def _strides(self, name: str) -> tuple[Dim, ...]:
        region = self.region
        return broadcast_strides(region.spec_of[name], region.shape(region.ops[0].outputs[0]))

    def _col_stride(self, name: str) -> Dim:
        axis = self.o.col_axis
        return 0 if axis is None else self._strides(name)[axis]

    def _by_row(self, name: str) -> bool:
        strides = self._strides(name)
        return any(strides[axis.axis] != 0 for axis in self.o.row_axes)

    def _width(self, name: str) -> int:
        """Columns that one access may take."""
        if self._col_stride(name) != 1:
            return 1
        strides = self._strides(name)
        steps = [strides[axis.axis] for axis in (*self.o.row_axes, *self.o.batch_axes)]
        return access_width(self.region.spec_of[name], self.o.cols, steps, self.lane)

    def _offset(self, name: str) -> str:
        """Code of the offset of (row, z), columns left out."""
        strides = self._strides(name)
        rows = self._flat("row", [(a.size, strides[a.axis]) for a in self.o.row_axes])
        members = self._flat("z", [(a.size, strides[a.axis]) for a in self.o.batch_axes])
        return " + ".join(part for part in (rows, members) if part) or "0"

    def _flat(self, index: str, dims: list[tuple[Dim, Dim]]) -> str:
        return flat_offset(self.out, index, dims)

    # -- text

    def text(self) -> str:
        """The struct; its fields are the parameters of ``out``, in order."""
        self.out.lines = []
        self.out.indent = 1
        self._has_result()
        self._struct("Columns", by_row=False)
        self._struct("Fetched", by_row=True)
        self._fetch("columns(Columns& to, int col, int z)", by_row=False)
        self._fetch("fetch(Fetched& to, int row, int col, int z)", by_row=True)
        self._finish()
        if self.scales is not None:
            self._quotients(*self.scales)
        return self.out.struct("Epilogue")

    def value(self) -> str:
        """Initialiser of the struct from the kernel's parameters."""
        return f"{{{', '.join(self.out.parameters)}}}"

    def _kind(self, name: str) -> str:
        return dtypes.TABLE[self.region.spec_of[name].dtype].cuda

    def _is_byte(self, name: str) -> bool:
        return dtypes.itemsize(self.region.spec_of[name].dtype) == 1

    def _arithmetic(self, name: str) -> str:
        return dtypes.TABLE[self.kinds[name]].cuda

    def _pieces(self, name: str) -> tuple[int, int]:
        """Width and number of the accesses for one row of columns."""
        if self._col_stride(name) == 0:
            return 1, 1
        width = self._width(name)
        return width, self.lane // width

    def fetched_registers(self, passes: int) -> int:
        """Registers that the operands of one chunk take in every lane, read in ``passes`` rows."""
        total = 0
        for name in (n for n in self.tensors if self._by_row(n)):
            columns = 1 if self._col_stride(name) == 0 else self.lane
            total += passes * -(-columns * dtypes.itemsize(self.region.spec_of[name].dtype) // 4)
        return total

    def _struct(self, struct: str, *, by_row: bool) -> None:
        with self.out.block(f"struct {struct}"):
            for name in self.tensors:
                if self._by_row(name) == by_row:
                    width, count = self._pieces(name)
                    number = self.number[name]
                    # What holds for whole columns is read by many rows: converted once.
                    element = f"unsigned, {width // 4}" if self._in_words(name) else f"{self._kind(name)}, {width}"
                    kind = f"vec_t<{element}>" if by_row else self._arithmetic(name)
                    self.out.line(f"{kind} x{number}[{count if by_row else count * width}];")
        self.out.lines[-1] += ";"

    def _has_result(self) -> None:
        """Whether a row of the kernel is one of the result; turns its number into the result's."""
        with self.out.block("INGOT_MEMBER bool has_result(int& row) const"):
            rows = self.out.number(self.rows)
            if self.wide is None:
                self.out.line(f"return row < {rows};")
                return
            width = self.out.number(self.o.output[1])
            self.out.line(f"const int line = row / {self.out.number(self.wide)};")
            self.out.line(f"const int at = row - line * {self.out.number(self.wide)};")
            self.out.line(f"const bool inside = row < {rows} && at < {width};")
            self.out.line(f"row = line * {width} + at;")
            self.out.line("return inside;")

    def _guard(self, index: str, width: int) -> str:
        """Condition that the columns of one access exist; empty when they always do."""
        if self.o.cols % self.columns == 0:
            return ""
        return f"col + {index} * {width} < {self.o.cols}"

    def _fetch(self, head: str, *, by_row: bool) -> None:
        out = self.out
        with out.block(f"INGOT_MEMBER void {head} const"):
            if by_row:
                out.line("if (!has_result(row)) return;")
            for name in (n for n in self.tensors if self._by_row(n) == by_row):
                width, count = self._pieces(name)
                at = self._offset(name) if by_row else self._offset_of_member(name)
                stride = self._col_stride(name)
                with out.block():
                    out.line(f"const {self._kind(name)}* from = {out.input(name)} + ({at});")
                    with out.unrolled("i", count):
                        guard = self._guard("i", width) if stride != 0 else ""
                        column = "0" if stride == 0 else f"(long long)(col + i * {width})"
                        step = "" if stride in (0, 1) else f" * {out.number(stride, 8)}"
                        load = f"load_vec<{width}>(from + {column}{step})"
                        if self._in_words(name):
                            load = f"load_vec<{width // 4}>(reinterpret_cast<const unsigned*>(from + {column}))"
                        with out.block(f"if ({guard})" if guard else ""):
                            self._keep(name, load, width, by_row=by_row)

    def _quotients(self, over: str, under: str) -> None:
        """What a product's sums are multiplied by to have another one's scales, for the columns of a lane."""
        out, width = self.out, min(self._width(over), self._width(under))
        head = f"INGOT_MEMBER void quotients(float (&to)[{self.lane}], int col) const"
        with out.block(head), out.unrolled("i", self.lane // width):
            guard = self._guard("i", width)
            with out.block(f"if ({guard})" if guard else ""):
                for name, tensor in (("over", over), ("under", under)):
                    load = f"load_vec<{width}>({out.input(tensor)} + col + i * {width})"
                    out.line(f"const vec_t<float, {width}> {name} = {load};")
                with out.unrolled("j", width):
                    out.line(f"to[i * {width} + j] = __fdividef(over.v[j], under.v[j]);")

    def _keep(self, name: str, load: str, width: int, *, by_row: bool) -> None:
        out, number = self.out, self.number[name]
        if by_row:
            out.line(f"to.x{number}[i] = {load};")
            return
        out.line(f"const vec_t<{self._kind(name)}, {width}> piece = {load};")
        with out.unrolled("j", width):
            code = loaded("piece.v[j]", self.region.spec_of[name].dtype)
            out.line(f"to.x{number}[i * {width} + j] = {code};")

    def _offset_of_member(self, name: str) -> str:
        strides = self._strides(name)
        return self._flat("z", [(a.size, strides[a.axis]) for a in self.o.batch_axes]) or "0"

    def _operand(self, name: str, op: BodyOp) -> str:
        if not name:
            return ""
        if name in self.literals:
            return literal(self.literals[name], literal_type(op, name, self.kinds, self.literals))
        if name in self.tensors:
            return f"t{self.number[name]}"
        return f"e_{list(self.kinds).index(name)}"

    def _finish(self) -> None:
        out, region = self.out, self.region
        values = list(self.kinds)
        raw = region.ops[0].outputs[0]
        last, packed = self._last(), self._packed()
        sums = f"const sum_t (&sums)[{self.lane}]"
        head = f"finish(const Fetched& f, const Columns& c, {sums}, int row, int col, int z)"
        with out.block(f"INGOT_MEMBER void {head} const"):
            for name in region.outputs:
                width = self._width(name)
                if self._is_byte(name):
                    kind = "int" if name in packed else self._arithmetic(name)
                    out.line(f"{kind} y{self.number[name]}[{self.lane}];")
                else:
                    out.line(f"vec_t<{self._kind(name)}, {width}> y{self.number[name]}[{self.lane // width}];")
            with out.unrolled("j", self.lane):
                scale = self.o.normal.scale
                factor = "" if scale == 1.0 else f" * {literal(scale, 'float32')}"
                out.line(f"const sum_t e_{values.index(raw)} = sums[j]{factor};")
                for name in (n for n in self.tensors if not self._in_words(n)):
                    self._loaded(name)
                for op in self.o.normal.epilogue:
                    code = self._code(op, narrow=op.outputs[0] not in last)
                    assert isinstance(code, str), code
                    kind = "int" if op.outputs[0] in packed else dtypes.TABLE[self.kinds[op.outputs[0]]].cuda
                    out.line(f"const {kind} e_{values.index(op.outputs[0])} = {code};")
                for name in region.outputs:
                    width = self._width(name)
                    if self._is_byte(name):
                        out.line(f"y{self.number[name]}[j] = e_{values.index(name)};")
                        continue
                    code = stored(f"e_{values.index(name)}", self.kinds[name], region.spec_of[name].dtype)
                    out.line(f"y{self.number[name]}[j / {width}].v[j % {width}] = {code};")
            # What a row without a result holds is computed too: rows are then finished side by side, without branches.
            out.line("if (!has_result(row)) return;")
            for name in region.outputs:
                self._store(name)

    def _code(self, op: BodyOp, *, narrow: bool) -> str | No:
        if op.op == "QuantizeLinear":
            op = replace(op, attrs=(*op.attrs, (SATURATED, self._least(op))))
        op = self._without_bounds(op)
        if op.op == "Identity":
            return self._operand(op.inputs[0], op)
        if op.op == "DequantizeLinear" and self._in_words(op.inputs[0]):
            return f"{self._from_word(op)} * {self._operand(op.inputs[1], op)}"
        return scalar_op(op, [self._operand(n, op) for n in op.inputs], self.kinds, self.literals, narrow=narrow)

    def _without_bounds(self, op: BodyOp) -> BodyOp:
        """``op`` less the bounds that quantizing its result sets anyway: at 0, and at the largest number."""
        readers = [self._range(reader) for reader in self.region.ops if op.outputs[0] in reader.inputs]
        ranges = [found for found in readers if found is not None]
        if op.outputs[0] in self.region.outputs or len(ranges) < max(len(readers), 1):
            return op
        low = self._lower_bound(op)
        if low is None or any(first < low for first, _ in ranges):
            return op
        bound = op.inputs[2] if len(op.inputs) > 2 else ""
        high = self.literals.get(bound)
        if not bound or (high is not None and all(last <= float(high) * (1 + 1e-6) for _, last in ranges)):
            return BodyOp("Identity", op.inputs[:1], op.outputs)
        return BodyOp("Min", (op.inputs[0], bound), op.outputs)

    def _lower_bound(self, op: BodyOp | None) -> float | None:
        """What a Relu or Clip lets nothing below; None for other ops, and where it is no known number."""
        if op is None or op.op not in ("Relu", "Clip"):
            return None
        low = 0.0 if op.op == "Relu" else self.literals.get(op.inputs[1]) if len(op.inputs) > 1 else None
        return None if low is None else float(low)

    def _least(self, op: BodyOp) -> int:
        """The least number that a QuantizeLinear to bytes gives: its zero point, where nothing is below zero."""
        limits = LIMITS.get(self.region.spec_of[op.outputs[0]].dtype, (0, 0))
        zero = self.literals.get(op.inputs[2], 0) if len(op.inputs) > 2 and op.inputs[2] else 0
        bound = self._lower_bound(self.region.producer.get(op.inputs[0]))
        return limits[0] if bound is None or bound < 0 else max(limits[0], int(zero))

    def _range(self, op: BodyOp) -> tuple[float, float] | None:
        """The least and the largest number that a quantization to bytes tells apart; None for other ops."""
        if op.op != "QuantizeLinear" or not self._is_byte(op.outputs[0]) or op.inputs[1] not in self.literals:
            return None
        limits, scale = LIMITS.get(self.region.spec_of[op.outputs[0]].dtype), float(self.literals[op.inputs[1]])
        zero = self.literals.get(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else 0
        if limits is None or zero is None or scale <= 0:
            return None
        return (self._least(op) - int(zero)) * scale, (limits[1] - int(zero)) * scale

    def _from_word(self, op: BodyOp) -> str:
        """A dequantized element, less its zero point, out of the word that it was fetched in."""
        name, width = op.inputs[0], self._width(op.inputs[0])
        word = f"f.x{self.number[name]}[j / {width}].v[j % {width} / 4]"
        if self._kind(name) == "e4m3_t":
            return f"ingot_e4m3_of({word}, j % 4)"
        zero = int(self.literals[op.inputs[2]]) if len(op.inputs) > 2 and op.inputs[2] else 0
        return f"ingot_byte<{str(self._kind(name).startswith('signed')).lower()}>({word}, j % 4, {zero})"

    def _in_words(self, name: str) -> bool:
        """Whether a tensor's bytes are fetched as words: where they are only dequantized, several at a time."""
        readers = [op for op in self.o.normal.epilogue if name in op.inputs]
        if not all(op.op == "DequantizeLinear" and op.inputs[0] == name for op in readers):
            return False
        if any(n and n not in self.literals for op in readers for n in op.inputs[2:]):
            return False
        vectors = self._by_row(name) and self._col_stride(name) == 1 and self._width(name) >= 4
        return vectors and self._is_byte(name)

    def _last(self) -> set[str]:
        """Quantized results that nothing here reads: they are right once they are stored."""
        read = {name for op in self.o.normal.epilogue for name in op.inputs}
        makers = (self.region.producer[name] for name in self.region.outputs if name not in read)
        return {op.outputs[0] for op in makers if op.op == "QuantizeLinear" and self._is_byte(op.outputs[0])}

    def _packed(self) -> set[str]:
        """Those of them that are integers, of which the last bytes are stored."""
        return {name for name in self._last() if self._kind(name).endswith("char")}

    def _loaded(self, name: str) -> None:
        width, _ = self._pieces(name)
        each, number = self._col_stride(name) != 0, self.number[name]
        if self._by_row(name):
            index = f"[j / {width}].v[j % {width}]" if each else "[0].v[0]"
            code = loaded(f"f.x{number}{index}", self.region.spec_of[name].dtype)
        else:
            code = f"c.x{number}[{'j' if each else '0'}]"
        self.out.line(f"const {self._arithmetic(name)} t{number} = {code};")

    def _store(self, name: str) -> None:
        out, width = self.out, self._width(name)
        with out.block():
            out.line(f"{self._kind(name)}* to = {out.output(name)} + ({self._offset(name)});")
            packed = self._is_byte(name)
            if packed:
                self._pack(name)
            with out.unrolled("i", self.lane // width):
                guard = self._guard("i", width)
                store = f"store_vec<{width}>(to + col + i * {width}, y{self.number[name]}[i]);"
                store = _stored_bytes(width) if packed else store
                out.line(f"if ({guard}) {store}" if guard else store)

    def _pack(self, name: str) -> None:
        """The results of a one-byte type as ``words``."""
        y, dtype = f"y{self.number[name]}", self.region.spec_of[name].dtype
        words = []
        for i in range(0, self.lane, 4):
            a, b, c, d = (f"{y}[{i + k}]" for k in range(4))
            if dtype == "float8_e4m3fn":
                words.append(f"ingot_e4m3_pair({a}, {b}) | ingot_e4m3_pair({c}, {d}) << 16")
            else:
                words.append(f"ingot_pack({a}, {b}, {c}, {d})")
        self.out.line(f"const unsigned words[{len(words)}] = {{{', '.join(words)}}};")


def _stored_bytes(width: int) -> str:
    """Statement that stores ``width`` bytes of ``words``, the i-th so many."""
    if width >= 4:
        count = width // 4
        words = ", ".join(f"words[i * {count} + {k}]" for k in range(count))
        to = f"reinterpret_cast<unsigned*>(to + col + i * {width})"
        return f"store_vec<{count}>({to}, vec_t<unsigned, {count}>{{{{{words}}}}});"
    kind = {2: "unsigned short", 1: "unsigned char"}[width]
    each = 4 // width
    part = f"words[i / {each}] >> {8 * width} * (i % {each})"
    return f"*reinterpret_cast<{kind}*>(to + col + i * {width}) = ({kind})({part});"
