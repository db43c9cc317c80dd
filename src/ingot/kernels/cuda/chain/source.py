"""CUDA C++ of one chain kernel: constants, both products' instructions, the epilogues, the template's text."""

from __future__ import annotations

from dataclasses import dataclass, field

from ingot.graph import dtypes
from ingot.graph.dims import Dim, ceildiv, mul
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Input, Output, Target, TensorMap
from ingot.kernels.cuda.chain.plan import ChainPlan, row_stride
from ingot.kernels.cuda.chain.tile import ChainTile, chunks, slices
from ingot.kernels.cuda.hopper import source as hopper
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.rows.text import (
    HELPERS,
    CudaText,
    arithmetic_types,
    literal,
    literal_type,
    loaded,
    scalar_literals,
    scalar_op,
)
from ingot.kernels.cuda.source import Source, template

ENTRY = "ingot_chain"
_ROWS = 64
_STORED_ROWS = 16
"""Rows that one warp stores at a time."""
_ALIGN = 16


def part_count(plan: ChainPlan, tile: ChainTile) -> Dim:
    """Parts of the rows; each warpgroup works on one at a time."""
    return ceildiv(plan.rows, 64 * tile.units)


def generate(plan: ChainPlan, tile: ChainTile, target: Target) -> Source:
    """CUDA C++ of one variant."""
    out = CudaText(plan.region)
    wide = _Half(plan, plan.first, "wide", 8, out)
    narrow = _Half(plan, plan.second, "narrow", 2, out)
    body = [*wide.text(), *narrow.text()]
    parts = part_count(plan, tile)
    number = out.number(parts)
    fields = [f"  {kind} {name};" for name, (kind, _) in out.parameters.items()]
    struct = "\n".join(["struct Epilogue {", *fields, *body, "};", ""])
    maps = _maps(plan, tile)
    names = ("x", "v", "beside_x", "beside_v", "w", "residual", "wide", "narrow")
    parameters = [f"const __grid_constant__ tensor_map_t {name}" for name in names]
    parameters += [f"{kind} {name}" for name, (kind, _) in out.parameters.items()]
    kernel = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}, 1) {ENTRY}({", ".join(parameters)}) {{
  const Epilogue epilogue = {{{", ".join(out.parameters)}}};
  const Problem problem = {{{number}}};
  chain({{{", ".join(names)}}}, problem, epilogue);
}}
"""
    debug = f"#define INGOT_SPIN_LIMIT {hopper.SPIN_LIMIT}" if hopper.SPIN_LIMIT else ""
    texts = [
        debug, HELPERS, template("hopper/ptx.cuh"), _constants(plan, tile), template("chain/instructions.cuh"),
        _products(plan), struct, template("chain/chain.cuh"), kernel,
    ]  # fmt: skip
    most = target.sms // tile.cluster
    wanted = ceildiv(parts, tile.cluster)
    clusters: Dim = min(wanted, most) if isinstance(wanted, int) else f"min({wanted}, {most})"
    return Source("\n".join(texts), mul(clusters, tile.cluster), (*maps, *out.arguments))


def _maps(plan: ChainPlan, tile: ChainTile) -> tuple[TensorMap, ...]:
    """Inputs and weights of the first product and one beside it, weights of the second, residual, both results.

    What there is not repeats the input's.
    """
    region, dtype = plan.region, plan.first.a.dtype
    item = dtypes.itemsize(dtype)

    def weights(o: Operands, rows: int) -> TensorMap:
        name, sizes = o.region.ops[0].inputs[1], o.b_dims
        strides = (mul(sizes[1][-1], item), _ALIGN)
        index = Input(region.inputs.index(name))
        return TensorMap(index, dtype, (sizes[0][0], sizes[0][-1], 1), strides, (64, rows // tile.cluster, 1))

    def tensor(name: str, rows: int) -> TensorMap:
        value = region.spec_of[name]
        stride = row_stride(value)
        assert stride is not None
        at = Output(region.outputs.index(name)) if name in region.outputs else Input(region.inputs.index(name))
        return TensorMap(at, dtype, (value.shape[1], plan.rows, 1), (mul(stride, item), _ALIGN), (64, rows, 1))

    beside = plan.first.beside or plan.first
    x = tensor(plan.first.region.ops[0].inputs[0], _ROWS)
    return (
        x,
        weights(plan.first, _ROWS),
        tensor(beside.region.ops[0].inputs[0], _ROWS),
        weights(beside, _ROWS),
        weights(plan.second, plan.narrow),
        tensor(plan.residual, _ROWS) if plan.residual else x,
        tensor(plan.middle, _STORED_ROWS) if plan.stored else x,
        tensor(plan.second.region.outputs[0], _STORED_ROWS),
    )


def _constants(plan: ChainPlan, tile: ChainTile) -> str:
    producer, consumer = tile.registers
    values = {
        "Units": tile.units, "Groups": tile.groups, "Images": tile.images, "Slots": tile.slots, "Pieces": tile.pieces,
        "Cluster": tile.cluster, "Depth": slices(plan),
        "Own": -(-plan.depths[0] // 64), "Steps": -(-plan.depth // 16), "Chunks": chunks(plan),
        "Narrow": plan.narrow, "ProducerRegisters": producer, "ConsumerRegisters": consumer, "Hints": tile.hints,
    }  # fmt: skip
    flags = {
        "Kept": tile.kept(plan), "Residual": bool(plan.residual), "Stored": plan.stored,
        "Brain": plan.first.a.dtype == "bfloat16",
    }  # fmt: skip
    lines = [f"constexpr int k{name} = {value};" for name, value in values.items()]
    lines += [f"constexpr bool k{name} = {str(value).lower()};" for name, value in flags.items()]
    return "\n".join(lines)


def _products(plan: ChainPlan) -> str:
    """The instructions: 64 columns with both operands in shared memory, and the second's with A in registers."""
    kind = "bf16" if plan.first.a.dtype == "bfloat16" else "f16"
    return _wgmma("wgmma_wide", 64, kind, registers=False) + _wgmma("wgmma_narrow", plan.narrow, kind, registers=True)


def _wgmma(name: str, columns: int, kind: str, *, registers: bool) -> str:
    count = columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    results = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    if registers:
        a_type, given = "const unsigned (&a)[4]", ", ".join(f'"r"(a[{i}])' for i in range(4))
        a_code, following, modes = f"{{{', '.join(f'%{count + i}' for i in range(4))}}}", count + 4, "1, 1, 0"
    else:
        a_type, given = "unsigned long long a", '"l"(a)'
        a_code, following, modes = f"%{count}", count + 1, "1, 1, 0, 0"
    return f"""
INGOT_INLINE void {name}(float (&d)[{count}], {a_type}, unsigned long long b, bool accumulate) {{
  asm volatile(
      "{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{following + 1}, 0;\\n"
      "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} "
      "{{{sums}}}, {a_code}, %{following}, p, {modes};\\n}}"
      : {results}
      : {given}, "l"(b), "r"((int)accumulate));
}}
"""


@dataclass
class _Half:
    """Members of ``struct Epilogue`` for one of the convolutions: its constants for a lane's columns, and its ops."""

    plan: ChainPlan
    o: Operands
    name: str
    groups: int
    """Groups of eight columns that are finished together; a lane has two columns of each."""
    out: CudaText
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        literals = scalar_literals(self.o.region)
        assert isinstance(literals, dict)
        self.literals, self.kinds = literals, arithmetic_types(self.o.region)
        read = dict.fromkeys(n for op in self.o.normal.epilogue for n in op.inputs)
        self.tensors = [n for n in read if n in self.o.region.inputs and n != self.plan.residual]
        self.number = {name: i for i, name in enumerate(self.plan.region.inputs)}

    def text(self) -> list[str]:
        """The members' text."""
        self.out.lines = []
        self.out.indent = 1
        self._columns()
        self._finish()
        return self.out.lines

    def _kind(self, name: str) -> str:
        return dtypes.TABLE[self.o.region.spec_of[name].dtype].cuda

    def _single(self, name: str) -> bool:
        return self.o.region.spec_of[name].elements == 1

    def _columns(self) -> None:
        out, struct = self.out, f"{self.name.capitalize()}Columns"
        with out.block(f"struct {struct}"):
            for name in self.tensors:
                out.line(f"vec_t<{self._kind(name)}, 2> x{self.number[name]}[{self.groups}];")
        out.lines[-1] += ";"
        with out.block(f"INGOT_MEMBER void {self.name}_columns({struct}& to, int col) const"):
            for name in self.tensors:
                with out.unrolled("j", self.groups):
                    target = f"to.x{self.number[name]}[j]"
                    if self._single(name):
                        out.line(f"{target}.v[0] = {target}.v[1] = *{out.input(name)};")
                        continue
                    out.line(f"{target} = {{}};")
                    out.line(f"if (col + 8 * j < {self.o.cols}) {target} = {self._pair(name)};")

    def _pair(self, name: str) -> str:
        value: TensorSpec = self.o.region.spec_of[name]
        kind, at = self._kind(name), f"{self.out.input(name)} + col + 8 * j"
        if value.align % (2 * dtypes.itemsize(value.dtype)) == 0:
            return f"load_vec<2>({at})"
        return f"vec_t<{kind}, 2>{{{{*({at}), *({at} + 1)}}}}"

    def _finish(self) -> None:
        out, values = self.out, list(self.kinds)
        residual = ", float residual" if self.name == "wide" else ""
        struct = f"{self.name.capitalize()}Columns"
        with out.block(f"INGOT_MEMBER float {self.name}(float sum, const {struct}& c, int j, int i{residual}) const"):
            out.line(f"const float e_{values.index(self.o.region.ops[0].outputs[0])} = sum;")
            for op in self.o.normal.epilogue:
                code = scalar_op(op, [self._operand(n, op) for n in op.inputs], self.kinds, self.literals)
                assert isinstance(code, str), code
                kind = dtypes.TABLE[self.kinds[op.outputs[0]]].cuda
                out.line(f"const {kind} e_{values.index(op.outputs[0])} = {code};")
            (result,) = self.o.region.outputs
            out.line(f"return (float)e_{values.index(result)};")

    def _operand(self, name: str, op: object) -> str:
        if not name:
            return ""
        if name in self.literals:
            return literal(self.literals[name], literal_type(op, name, self.kinds, self.literals))  # type: ignore[arg-type]
        if name == self.plan.residual:
            return "residual"
        if name in self.tensors:
            return loaded(f"c.x{self.number[name]}[j].v[i]", self.o.region.spec_of[name].dtype)
        return f"e_{list(self.kinds).index(name)}"
