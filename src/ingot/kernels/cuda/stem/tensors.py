"""``struct Stem``: the tensors of a stem kernel and the scalar ops around its product, as CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp
from ingot.graph.scalar_quantize import LIMITS, SATURATED
from ingot.kernels.cuda.rows.text import CudaText, access_width, literal, literal_type, loaded, scalar_op, stored
from ingot.kernels.cuda.stem.tile import Form


def store_width(form: Form) -> int:
    """Output channels that one store may take."""
    y = form.plan.result
    return access_width(y, form.plan.outputs, [y.strides[0], y.strides[2], y.strides[3]])


@dataclass
class StemText:
    """Emits the struct for one form; its fields are the parameters of ``out``, in order."""

    form: Form
    out: CudaText = field(init=False)

    def __post_init__(self) -> None:
        self.out = CudaText(self.form.plan.region)

    def text(self) -> str:
        """The struct."""
        plan, out = self.form.plan, self.out
        out.lines = []
        x, y = plan.region.spec_of[plan.image], plan.result
        weight = out.input(plan.conv.inputs[1])
        with out.block("INGOT_MEMBER const element_t* weights() const"):
            out.line(f"return {weight};")
        with out.block("INGOT_MEMBER const image_t* image(int n) const"):
            out.line(f"return {out.input(plan.image)} + {out.offset([('n', x.strides[0])])};")
        with out.block("INGOT_MEMBER result_t* to(int n) const"):
            out.line(f"return {out.output(plan.region.outputs[0])} + {out.offset([('n', y.strides[0])])};")
        self._fill()
        self._read()
        self._make()
        self._middle()
        self._after()
        return out.struct("Stem")

    # -- reading

    def _fill(self) -> None:
        """What the epilogue reads for output channel ``i``, as floats."""
        plan, out, form = self.form.plan, self.out, self.form
        with out.block("INGOT_MEMBER void fill(float* table, int i) const"):
            out.line(f"const int channel = i < {plan.outputs} ? i : {plan.outputs - 1};")
            for number, name in enumerate(plan.columns):
                spec = plan.region.spec_of[name]
                axis = 0 if name == plan.bias else spec.rank - 3
                one = axis < 0 or spec.shape[axis] == 1
                at = "0" if one else out.offset([("channel", spec.strides[axis])])
                code = loaded(f"{out.input(name)}[{at}]", spec.dtype)
                out.line(f"table[{number * form.tiles_n * 8} + i] = (float)({code});")

    def _read(self) -> None:
        """One load for each channel: that many pixels of it, or as much of all channels side by side."""
        form, out = self.form, self.out
        spec = form.plan.region.spec_of[form.plan.image]
        with out.block(
            "INGOT_MEMBER void read(vec_t<image_t, kLoad> (&raw)[kChannels], const image_t* from, int y, int x) const"
        ):
            out.line(f"const image_t* at = from + y * {spec.strides[2]} + x * {spec.strides[3]};")
            step: Dim = spec.strides[1] if form.plan.channels > 1 else 0
            if form.channels_inner and form.load > 1:
                step = form.load
            with out.unrolled("c", form.plan.channels):
                out.line(f"raw[c] = load_vec<{form.load}>(at + c * {step});")

    def _make(self) -> None:
        """The loaded pixels as elements of the convolution's input, two a word."""
        form, out, plan = self.form, self.out, self.form.plan
        spec = plan.region.spec_of[plan.image]
        bare = not plan.before and spec.dtype == plan.dtype
        with out.block("INGOT_MEMBER void make(unsigned* words, const vec_t<image_t, kLoad> (&raw)[kChannels]) const"):
            codes: list[str] = []
            for i in range(form.load):
                for c in range(plan.channels):
                    flat = i * plan.channels + c
                    part, lane = (flat // form.load, flat % form.load) if form.channels_inner else (c, i)
                    code = f"raw[{part}].v[{lane}]"
                    codes.append(f"{code}.bits" if bare else f"f{flat}")
                    if not bare:
                        self._converted(f"f{flat}", loaded(code, spec.dtype), c)
                codes += ["0" if bare else "0.0f"] * (form.pixel - plan.channels)
            codes += ["0" if bare else "0.0f"] * (len(codes) % 2)
            for word, (low, high) in enumerate(zip(codes[::2], codes[1::2], strict=True)):
                value = f"{low} | (unsigned){high} << 16" if bare else f"packed<kHalf>({low}, {high})"
                out.line(f"words[{word}] = {value};")

    def _converted(self, name: str, code: str, channel: int) -> None:
        """Declares ``name``: an element of the convolution's input, from the image's."""
        plan, out = self.form.plan, self.out
        out.line(f"float {name};")
        with out.block():
            names = {plan.image: code} | {n: self._constant(n, channel) for n in plan.constants}
            out.line(f"{name} = {self._ops(plan.before, names, plan.conv.inputs[0])};")

    def _constant(self, name: str, channel: int) -> str:
        spec = self.form.plan.region.spec_of[name]
        axis = spec.rank - 3
        at = 0 if axis < 0 or spec.shape[axis] == 1 else channel * int(spec.strides[axis])
        return loaded(f"{self.out.input(name)}[{at}]", spec.dtype)

    # -- arithmetic

    def _ops(self, ops: Sequence[BodyOp], names: dict[str, str], result: str, prefix: str = "") -> str:
        """Emits ``ops`` over the codes in ``names``, as variables with ``prefix``; gives the code of ``result``."""
        plan, out = self.form.plan, self.out
        for number, known in enumerate(names.values()):
            out.line(f"const auto {prefix}x{number} = {known};")
        names = {name: f"{prefix}x{number}" for number, name in enumerate(names)}
        for number, op in enumerate(ops):
            arguments = [
                literal(plan.literals[n], literal_type(op, n, plan.kinds, plan.literals))
                if n in plan.literals
                else names[n]
                if n
                else ""
                for n in op.inputs
            ]
            out.line(f"const auto {prefix}e{number} = {self._code(op, arguments)};")
            names[op.outputs[0]] = f"{prefix}e{number}"
        return names[result]

    def _code(self, op: BodyOp, arguments: Sequence[str]) -> str:
        """Code of a scalar op. Quantized integers stay the last bits of a float: see ``Code.quantized``."""
        plan = self.form.plan
        maker = plan.region.producer.get(op.inputs[0])
        if op.op == "DequantizeLinear" and maker is not None and self._saturates(maker):
            zero = int(plan.literals[op.inputs[2]]) if len(op.inputs) > 2 and op.inputs[2] else 0
            return f"(__uint_as_float({arguments[0]}) - {12582912.0 + zero}f) * {arguments[1]}"
        if self._saturates(op):
            least = LIMITS[plan.kinds[op.outputs[0]]][0]
            op = replace(op, attrs=(*op.attrs, (SATURATED, least)))
        narrow = op.outputs[0] != plan.region.outputs[0] and op.attr(SATURATED) is None
        code = scalar_op(op, arguments, plan.kinds, plan.literals, narrow=narrow)
        assert isinstance(code, str), code
        return code

    def _saturates(self, op: BodyOp) -> bool:
        """Whether an op quantizes to bytes by a scale and zero point that are known numbers."""
        known = all(name in self.form.plan.literals for name in op.inputs[1:] if name)
        return op.op == "QuantizeLinear" and self.form.plan.kinds[op.outputs[0]] in ("int8", "uint8") and known

    def _columns(self) -> dict[str, str]:
        plan = self.form.plan
        return {name: f"columns[{i}].v[e]" for i, name in enumerate(plan.columns) if name != plan.bias}

    def _middle(self) -> None:
        """From a sum to what is pooled, or to the result before it is stored."""
        plan, out = self.form.plan, self.out
        made = "float" if plan.pool is not None else "made_t"
        with out.block(f"INGOT_MEMBER {made} middle(float sum, const ColumnPair* columns, int e) const"):
            raw = "(sum + columns[0].v[e])" if plan.bias else "sum"
            names = self._columns() | {plan.conv.outputs[0]: raw}
            out.line(f"return {self._ops(plan.middle, names, plan.pooled)};")
        with out.block("INGOT_MEMBER result_t result(made_t x) const"):
            whole = plan.result.dtype in LIMITS
            out.line(f"return {'(result_t)(x)' if whole else stored('x', 'float32', plan.result.dtype)};")

    def _after(self) -> None:
        """From what was pooled to the result before it is stored."""
        plan, out = self.form.plan, self.out
        with out.block("INGOT_MEMBER made_t after(float pooled, const ColumnPair* columns, int e) const"):
            if plan.pool is None:
                out.line("return pooled;")
                return
            code = "pooled"
            if plan.late:
                code = self._ops(plan.late, {plan.pooled: code}, plan.pooling.inputs[0], "l")
            if plan.after:
                names = self._columns() | {plan.pooling.outputs[0]: code}
                code = self._ops(plan.after, names, plan.region.outputs[0], "a")
            out.line(f"return {code};")
