"""CUDA C++ of one chain kernel: constants, both products' instructions, the epilogues, the template's text."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.graph import dtypes
from ingot.graph.dims import Dim, ceildiv, mul
from ingot.graph.region import BodyOp
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Input, Output, Target, TensorMap
from ingot.kernels.cuda.chain.plan import ChainPlan, row_stride
from ingot.kernels.cuda.chain.tile import ChainTile, chunks, slices
from ingot.kernels.cuda.hopper import source as hopper
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.wgmma import wgmma
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
from ingot.kernels.cuda.source import Source, constants, template

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
    _Half(plan, plan.first, "wide", 8, out).write()
    _Half(plan, plan.second, "narrow", 2, out).write()
    parts = part_count(plan, tile)
    number = out.number(parts)
    maps = _maps(plan, tile)
    names = ("x", "v", "beside_x", "beside_v", "w", "residual", "wide", "narrow")
    parameters = [*(f"const __grid_constant__ tensor_map_t {name}" for name in names), *out.declarations]
    kernel = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}, 1) {ENTRY}({", ".join(parameters)}) {{
  const Epilogue epilogue = {{{", ".join(out.parameters)}}};
  const Problem problem = {{{number}}};
  chain({{{", ".join(names)}}}, problem, epilogue);
}}
"""
    debug = f"#define INGOT_SPIN_LIMIT {hopper.SPIN_LIMIT}" if hopper.SPIN_LIMIT else ""
    texts = [
        debug, HELPERS, template("hopper/ptx.cuh"), template("tensor_core.cuh"), _constants(plan, tile),
        template("chain/instructions.cuh"), _products(plan), out.struct("Epilogue"), template("chain/chain.cuh"),
        kernel,
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
        "Half": plan.first.a.dtype == "float16",
    }  # fmt: skip
    return constants(values, flags)


def _products(plan: ChainPlan) -> str:
    """The instructions: 64 columns with both operands in shared memory, and the second's with A in registers."""
    kind = "bf16" if plan.first.a.dtype == "bfloat16" else "f16"
    kinds, narrow = f"f32.{kind}.{kind}", plan.narrow
    return wgmma("wgmma_wide", "m64n64k16", kinds, ", 1, 1, 0, 0", 64) + wgmma(
        "wgmma_narrow", f"m64n{narrow}k16", kinds, ", 1, 1, 0", narrow, registers=True
    )


@dataclass
class _Half:
    """Members of ``struct Epilogue`` for one of the convolutions: its constants for a lane's columns, and its ops."""

    plan: ChainPlan
    o: Operands
    name: str
    groups: int
    """Groups of eight columns that are finished together; a lane has two columns of each."""
    out: CudaText

    def __post_init__(self) -> None:
        literals = scalar_literals(self.o.region)
        assert isinstance(literals, dict)
        self.literals, self.kinds = literals, arithmetic_types(self.o.region)
        read = dict.fromkeys(n for op in self.o.normal.epilogue for n in op.inputs)
        self.tensors = [n for n in read if n in self.o.region.inputs and n != self.plan.residual]
        self.number = {name: i for i, name in enumerate(self.plan.region.inputs)}

    def write(self) -> None:
        """The members' text."""
        self._columns()
        self._finish()

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

    def _operand(self, name: str, op: BodyOp) -> str:
        if not name:
            return ""
        if name in self.literals:
            return literal(self.literals[name], literal_type(op, name, self.kinds, self.literals))
        if name == self.plan.residual:
            return "residual"
        if name in self.tensors:
            return loaded(f"c.x{self.number[name]}[j].v[i]", self.o.region.spec_of[name].dtype)
        return f"e_{list(self.kinds).index(name)}"
