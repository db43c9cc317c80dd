"""Epilogues: the scalar ops after an anchor, generated on a tile in registers and stored to every output."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ingot.errors import YES, Answer, No
from ingot.graph import dtypes
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp, Literal, Region
from ingot.graph.scalar_ops import NEEDS_RESULT_TYPE, expression
from ingot.graph.scalar_quantize import parameter_dtype
from ingot.graph.tensor import TensorSpec
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.indexing import Offsets, Space, broadcast_strides, offsets

REGISTER_TYPE = dict.fromkeys(dtypes.WIDENED, "float32")
"""Type in which a value of a storage type is computed, where it is not its own."""
_PRELOADED = 32
"""Most elements per thread of a whole tile that is loaded before the main loop."""
_STORED_BOOL = "tl.uint8"


def literal_code(value: Literal, dtype: str) -> str | No:
    """A one-element literal as Triton source, for an op on ``dtype``."""
    if isinstance(value, tuple):
        if len(value) != 1:
            return No("a vector literal has no place in an epilogue")
        value = value[0]
    if isinstance(value, int | float) and dtype != "bool" and dtypes.is_float(dtype):
        value = float(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return 'float("nan")'
        if math.isinf(value):
            return 'float("inf")' if value > 0 else 'float("-inf")'
        return repr(value)
    if isinstance(value, int):
        return repr(value)
    return No(f"literal {value!r} is not a number")


def check_epilogue(region: Region, anchor_inputs: int) -> Answer:
    """Whether every op after the anchor has a Triton form and every tensor it reads broadcasts to the output."""
    anchor = region.ops[0]
    shape = region.shape(anchor.outputs[0])
    literals = region.literal_of
    made = set(anchor.outputs)
    for op in region.ops[1:]:
        args = []
        for name in op.inputs:
            if name in literals:
                code = literal_code(literals[name], _literal_dtype(region, op, name))
                if isinstance(code, No):
                    return code
                args.append(code)
                continue
            args.append("x" if name else "")
            if name and name not in made and not _broadcasts(region.shape(name), shape):
                return No(f"{name!r} of shape {region.shape(name)} does not broadcast to the output {shape}")
        text = _expression(region, op, args)
        if isinstance(text, No):
            return text
        made.update(op.outputs)
    for name in region.outputs:
        if name not in made:
            return No(f"output {name!r} is not made in the Region")
        if region.shape(name) != shape:
            return No(f"output {name!r} of shape {region.shape(name)} is not the anchor's {shape}")
    anchor_reads = set(anchor.inputs[:anchor_inputs])
    if any(name in anchor_reads and region.spec_of[name].dtype == "bool" for name in region.inputs):
        return No("a boolean operand of a product")
    return YES


def _operand_dtype(region: Region, op: BodyOp) -> str:
    """Type of the operand that decides how ``op`` is written: the first tensor (of Where: of its branches)."""
    names = op.inputs[1:] if op.op == "Where" else op.inputs
    literals = region.literal_of
    tensors = [name for name in names if name and name not in literals]
    return region.spec_of[tensors[0]].dtype if tensors else region.spec_of[op.outputs[0]].dtype


def _literal_dtype(region: Region, op: BodyOp, name: str) -> str:
    if op.op == "Where" and name == op.inputs[0]:
        return "bool"
    return parameter_dtype(op, op.inputs.index(name)) or _operand_dtype(region, op)


def _expression(region: Region, op: BodyOp, args: list[str]) -> str | No:
    to = region.spec_of[op.outputs[0]].dtype if op.op in NEEDS_RESULT_TYPE else ""
    return expression(op, args, "triton", _operand_dtype(region, op), to)


def _broadcasts(shape: tuple[Dim, ...], to: tuple[Dim, ...]) -> bool:
    if len(shape) > len(to):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


class Epilogue:
    """Emits an epilogue into a kernel whose anchor result is a float32 tile."""

    def __init__(self, k: KernelBuilder, space: Space, mask_row: str, mask_col: str, elements_per_thread: int) -> None:
        self.k, self.space, self.elements_per_thread = k, space, elements_per_thread
        self.raw: dict[str, str] = {}
        self.mask_row, self.mask_col = mask_row, mask_col
        self.codes: dict[str, str] = {}
        self.places: dict[object, Offsets] = {}
        self.count = 0

    def _mask(self, row: bool, col: bool) -> str:
        parts = [f"({self.mask_row})[:, None]"] if row and self.mask_row else []
        parts += [f"({self.mask_col})[None, :]"] if col and self.mask_col else []
        return " & ".join(parts)

    def place(self, spec: TensorSpec) -> Offsets:
        """Offsets of a tensor in the tile, in variables shared by all tensors of the same strides."""
        strides = broadcast_strides(spec, self.space.shape)
        key = (strides, spec.shape[-len(strides) :])
        if key not in self.places:
            raw = offsets(self.k, spec, self.space)
            number = len(self.places)
            named = []
            for part, text in (("row", raw.row), ("col", raw.col), ("base", raw.scalar)):
                if text:
                    self.k.line(f"{part}_{number} = {text}")
                named.append(f"{part}_{number}" if text else "")
            self.places[key] = Offsets(*named)
        return self.places[key]

    def preload(self, *, constants: bool) -> None:
        """Emits the loads of epilogue tensors (weights, or the others) ahead of the main loop, which hides them.

        Whole tiles are only loaded early where they cost few registers.
        """
        region = self.k.region
        read = dict.fromkeys(n for op in region.ops[1:] for n in op.inputs if n in region.inputs)
        for name in read:
            spec = region.spec_of[name]
            if spec.constant is not constants:
                continue
            strides = broadcast_strides(spec, self.space.shape)
            whole = any(strides[axis.axis] != 0 for axis in self.space.rows)
            if not whole or self.elements_per_thread <= _PRELOADED:
                self.raw[name] = self.load(name)

    def load(self, name: str) -> str:
        """Emits the load of an external tile (broadcast as it is, in its own type) and returns its variable."""
        spec = self.k.region.spec_of[name]
        at = self.place(spec)
        pointer, tile = self.k.input(name), at.tile()
        mask = self._mask(bool(at.row), bool(at.col))
        zero = "0.0" if dtypes.is_float(spec.dtype) else "0"
        guard = f", mask={mask}, other={zero}" if mask else ""
        variable = self._fresh()
        self.k.line(f"{variable} = tl.load({pointer}{' + ' + tile if tile else ''}{guard})")
        return variable

    def external(self, name: str) -> str:
        """Emits the conversion of an external tile to its register type, and its load if that is still to do."""
        raw, dtype = self.raw.get(name) or self.load(name), self.k.region.spec_of[name].dtype
        if dtype != "bool" and dtype not in REGISTER_TYPE:
            return raw
        # A new name: Triton does not let a branch change the type of a variable from outside.
        variable = self._fresh()
        self.k.line(f"{variable} = {raw} != 0" if dtype == "bool" else f"{variable} = {raw}.to(tl.float32)")
        return variable

    def _fresh(self) -> str:
        self.count += 1
        return f"e{self.count}"

    def value(self, name: str, op: BodyOp, literals: Mapping[str, Literal]) -> str:
        """Code of an op's operand: a literal, a value made before, or a tile loaded now."""
        if not name:
            return ""
        if name in literals:
            code = literal_code(literals[name], _literal_dtype(self.k.region, op, name))
            assert isinstance(code, str)
            return code
        if name not in self.codes:
            self.codes[name] = self.external(name)
        return self.codes[name]

    def run(self, accumulator: str, ops: tuple[BodyOp, ...], result: str) -> None:
        """Emits every op of ``ops`` on the tile called ``accumulator`` (the value ``result``) and all stores."""
        region = self.k.region
        self.codes[result] = accumulator
        for op in ops:
            args = [self.value(name, op, region.literal_of) for name in op.inputs]
            text = _expression(region, op, args)
            assert isinstance(text, str), text
            variable = self._fresh()
            self.k.line(f"{variable} = {text}")
            self.codes[op.outputs[0]] = variable
        for name in region.outputs:
            self.store(name)

    def store(self, name: str) -> None:
        """Emits the store of one output in its own type and strides."""
        spec = self.k.region.spec_of[name]
        at = self.place(spec)
        mask = self._mask(True, True)
        guard = f", mask={mask}" if mask else ""
        # A store needs pointers of the whole tile even where the output has one row or one column.
        rows = "" if at.row else "(row * 0)[:, None]"
        cols = "" if at.col else f"({self.space.col_code} * 0)[None, :]"
        where = " + ".join(part for part in (at.tile(), rows, cols) if part)
        kind = _STORED_BOOL if spec.dtype == "bool" else f"tl.{triton_name(spec.dtype)}"
        self.k.line(f"tl.store({self.k.output(name)} + {where}, {self.codes[name]}.to({kind}){guard})")


def triton_name(dtype: str) -> str:
    """Name of a storage type in ``triton.language``."""
    if dtype == "float8_e4m3fn":
        return "float8e4nv"
    return dtype if dtype in dtypes.TABLE and dtype != "bool" else "uint8"
