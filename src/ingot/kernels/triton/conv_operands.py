"""How a convolution feeds a product: rows are output pixels, the depth runs over taps and channels.

A transposed convolution is cut into phases, one per remainder of the output position by the stride:
in each phase the taps that count form an ordinary stride-1 convolution, so no work is masked away.
"""

from __future__ import annotations

import math

from ingot.graph.dims import Dim, ceildiv, divisible, mul
from ingot.graph.region import Region
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import Axis, Space, fits_int32, flat_offset, times
from ingot.kernels.triton.tile import Tile

_MAX_VALID_BITS = 31
_PREFETCH_POINTERS = 4096


def plus(*terms: str) -> str:
    """Sum of code terms; empty ones are left out."""
    return " + ".join(t for t in terms if t)


class ConvOperands:
    """Operands whose depth advances tap by tap, over blocks of channels within each."""

    def __init__(self, region: Region, tile: Tile) -> None:
        g = geometry(region)
        assert isinstance(g, Geometry)
        self.g, self.region, self.tile = g, region, tile
        self.x_name, self.w_name = region.ops[0].inputs[:2]
        rank = len(g.kernel)
        self.phases = g.stride if g.transposed else (1,) * rank
        phased = math.prod(self.phases) > 1
        sizes = [ceildiv(o, p) for o, p in zip(g.output, self.phases, strict=True)]
        axes = [Axis(0, g.batch)]
        axes += [Axis(2 + i, sizes[i], p, f"phase_{i}" if p > 1 else "") for i, p in enumerate(self.phases)]
        self.sizes = sizes
        self.rows: Dim = mul(g.batch, *sizes)
        self.cols: Dim = g.out_channels
        self.batch: Dim = g.groups * math.prod(self.phases)
        self.blocks = -(-g.in_channels // tile.k)
        counts = [_tap_counts(g, i) for i in range(rank)]
        self.counts = counts
        self.uniform = all(len(set(c)) == 1 for c in counts)
        self.steps: Dim = self.blocks * math.prod(max(c) for c in counts)
        self.steps_code = "" if self.uniform else "steps"
        shape = region.spec_of[region.ops[0].outputs[0]].shape
        self.space = Space(shape, tuple(axes), 1, col_code="channel")
        limits = [i for i in range(rank) if self.phases[i] > 1 and not divisible(g.output[i], self.phases[i])]
        self.limits = limits
        self.row_mask = " & ".join(f"inside_{i}" for i in limits) if phased else ""
        self.bounded = [i for i in range(rank) if g.bounded(i)]
        self.bits = not g.transposed and bool(self.bounded) and g.taps <= _MAX_VALID_BITS

    # -- before the loop

    def setup(self, k: KernelBuilder) -> None:
        """Row coordinates, pointers of the first tiles, and which taps of a row are inside the input."""
        g = self.g
        self._decode_batch(k)
        wide = not fits_int32(g.x)
        strides = g.x.strides
        rank = len(g.kernel)
        simple = not g.transposed and not self.bounded and all(s == 1 for s in g.stride) and not any(g.pad)
        if simple:
            axes = [(g.batch, strides[0]), *zip(g.output, strides[2:], strict=True)]
            row = flat_offset(k, "m_index", axes, wide=wide)
        else:
            self._coordinates(k)
            first = "n_coord.to(tl.int64)" if wide else "n_coord"
            parts = [times(first, k.dim(strides[0])) if g.batch != 1 else ""]
            parts += [times(f"pos_{i}", k.dim(strides[2 + i])) for i in range(rank)]
            row = plus(*parts)
        group = times("group_index", k.dim(mul(g.in_channels, strides[1]))) if g.groups > 1 else ""
        a_k = times("rk", k.dim(strides[1])) or "rk * 0"
        k.line(f"a_row = {plus(k.input(self.x_name), group)} + ({row or 'm_index * 0'})[:, None]")
        k.line(f"a_ptr = a_row + ({a_k})[None, :]")
        if self.bits:
            self._valid_bits(k)
        self._weights(k)

    def _decode_batch(self, k: KernelBuilder) -> None:
        g, count = self.g, math.prod(self.phases)
        if g.groups > 1:
            k.line(f"group_index = z // {count}" if count > 1 else "group_index = z")
            k.line(f"channel = group_index * {g.out_channels} + n_local")
        else:
            k.line("channel = n_local")
        if count == 1:
            return
        k.line(f"phase = z % {count}")
        inner = 1
        for i in reversed(range(len(self.phases))):
            p = self.phases[i]
            if p > 1:
                k.line(f"phase_{i} = phase // {inner} % {p}")
                self._phase_taps(k, i)
            inner *= p
        if not self.uniform:
            names = [f"count_{i}" if len(set(c)) > 1 else str(c[0]) for i, c in enumerate(self.counts)]
            k.line(f"steps = {self.blocks} * {' * '.join(names)}")

    def _phase_taps(self, k: KernelBuilder, i: int) -> None:
        """First tap, number of taps and first input shift of this phase, as selects over few constants."""
        g = self.g
        firsts = [_first_tap(g, i, phase) for phase in range(self.phases[i])]
        shifts = [(phase + g.pad[i] - r * g.dilation[i]) // g.stride[i] for phase, r in enumerate(firsts)]
        k.line(f"tap0_{i} = {_select(f'phase_{i}', firsts)}")
        k.line(f"shift0_{i} = {_select(f'phase_{i}', shifts)}")
        if len(set(self.counts[i])) > 1:
            k.line(f"count_{i} = {_select(f'phase_{i}', self.counts[i])}")

    def _coordinates(self, k: KernelBuilder) -> None:
        g = self.g
        rest = "m_index"
        for i in reversed(range(len(g.kernel))):
            size = self.sizes[i]
            if size == 1:
                k.line(f"q_{i} = m_index * 0")
            else:
                k.line(f"q_{i} = {rest} % {k.dim(size)}")
                rest = f"({rest} // {k.dim(size)})"
        if g.batch != 1:
            k.line(f"n_coord = {rest}")
        for i in range(len(g.kernel)):
            if g.transposed:
                k.line(f"pos_{i} = q_{i}")
            else:
                scaled = times(f"q_{i}", str(g.stride[i]))
                k.line(f"pos_{i} = {scaled}{f' - {g.pad[i]}' if g.pad[i] else ''}")
        for i in self.limits:
            k.line(f"inside_{i} = q_{i} * {self.phases[i]} + phase_{i} < {k.dim(g.output[i])}")

    def _valid_bits(self, k: KernelBuilder) -> None:
        """One bit per tap and row: the loop then tests a bit instead of comparing coordinates."""
        g = self.g
        for i in self.bounded:
            for t in range(g.kernel[i]):
                at = f"(pos_{i} + {t * g.dilation[i]})"
                k.line(f"ok_{i}_{t} = ({at} >= 0) & ({at} < {k.dim(g.input[i])})")
        k.line("valid = m_index * 0")
        for tap in range(g.taps):
            rest, conditions = tap, []
            for i in reversed(range(len(g.kernel))):
                rest, t = divmod(rest, g.kernel[i])
                if i in self.bounded:
                    conditions.append(f"ok_{i}_{t}")
            k.line(f"valid += ({' & '.join(conditions)}).to(tl.int32) << {tap}")

    def _weights(self, k: KernelBuilder) -> None:
        g = self.g
        w = k.input(self.w_name)
        strides = [k.dim(s) for s in g.w.strides]
        self.w_n, self.w_c = (strides[1], strides[0]) if g.transposed else (strides[0], strides[1])
        self.mask_b = self.w_n == "1" and self.w_c != "1" and not divisible(self.cols, self.tile.n)
        index = "n_local" if self.mask_b else "n_index"
        base = ""
        if g.groups > 1:
            per_group = g.in_channels * int(g.w.strides[0]) if g.transposed else g.out_channels * int(g.w.strides[0])
            base = times("group_index", str(per_group))
        k.line(f"b_base = {plus(w, base)}")
        self.b_cols = times(index, self.w_n) or f"{index} * 0"
        k.line(f"b_ptr = b_base + ({times('rk', self.w_c) or 'rk * 0'})[:, None] + ({self.b_cols})[None, :]")

    # -- in the loop

    def _tap_code(self, step: str) -> tuple[str, list[str]]:
        """Code of the channel block and of each dimension's tap number (empty where there is one tap)."""
        single = all(max(c) == 1 for c in self.counts)
        block = step if single else f"({step} % {self.blocks})" if self.blocks > 1 else ""
        tap = "" if single else f"({step} // {self.blocks})" if self.blocks > 1 else step
        numbers = [""] * len(self.counts)
        many = [i for i, c in enumerate(self.counts) if max(c) > 1]
        for i in reversed(many):
            count = f"count_{i}" if len(set(self.counts[i])) > 1 else str(self.counts[i][0])
            numbers[i] = f"({tap} % {count})" if i != many[0] else tap
            tap = f"({tap} // {count})"
        return (block if self.blocks > 1 else ""), numbers

    def _weight_delta(self, k: KernelBuilder, step: str) -> str:
        g = self.g
        block, numbers = self._tap_code(step)
        parts = [times(f"{block} * {self.tile.k}", self.w_c) if block else ""]
        for i, number in enumerate(numbers):
            if self.phases[i] > 1:
                stride = g.stride[i] // math.gcd(g.stride[i], g.dilation[i])
                number = plus(f"tap0_{i}", times(number, str(stride)) if number else "")
            parts.append(times(f"({number})", k.dim(g.w.strides[2 + i])) if number else "")
        return plus(*parts) or "0"

    def load(self, k: KernelBuilder) -> None:
        """One tile of each operand."""
        g, tile = self.g, self.tile
        block, numbers = self._tap_code("step")
        deltas = [times(f"{block} * {tile.k}", k.dim(g.x.strides[1])) if block else ""]
        shifts = []
        for i, number in enumerate(numbers):
            shift = self._shift(i, number)
            shifts.append(shift)
            deltas.append(times(f"({shift})", k.dim(g.x.strides[2 + i])) if shift else "")
        k.line(f"delta = {plus(*deltas) or '0'}")
        masks = []
        if self.bits:
            k.line(f"here = ((valid >> {self._tap_number(numbers)}) & 1) != 0")
            masks.append("here[:, None]")
        elif self.bounded:
            for i in self.bounded:
                k.line(f"at_{i} = pos_{i}{' + ' + shifts[i] if shifts[i] else ''}")
            tests = [f"(at_{i} >= 0) & (at_{i} < {k.dim(g.input[i])})" for i in self.bounded]
            k.line(f"here = {' & '.join(tests)}")
            masks.append("here[:, None]")
        masks_b = []
        if g.in_channels % tile.k:
            k.line(f"c_left = {g.in_channels}{f' - {block} * {tile.k}' if block else ''}")
            masks.append("(rk < c_left)[None, :]")
            masks_b.append("(rk < c_left)[:, None]")
        if self.mask_b:
            masks_b.append(f"(n_local < {k.dim(self.cols)})[None, :]")
        k.line(f"a = tl.load(a_ptr + delta{_guard(masks)})")
        k.line(f"b = tl.load(b_ptr + ({self._weight_delta(k, 'step')}){_guard(masks_b)})")

    def _shift(self, i: int, number: str) -> str:
        """Code of the input shift of the current tap along dimension ``i``."""
        g = self.g
        if not g.transposed:
            return times(number, str(g.dilation[i])) if number else ""
        apart = g.dilation[i] // math.gcd(g.stride[i], g.dilation[i])
        if self.phases[i] > 1:
            return f"shift0_{i}{f' - {times(number, str(apart))}' if number else ''}"
        return f"{g.pad[i]}{f' - {times(number, str(apart))}' if number else ''}"

    def _tap_number(self, numbers: list[str]) -> str:
        code = ""
        for i, number in enumerate(numbers):
            code = plus(times(f"({code})", str(self.g.kernel[i])) if code else "", number)
        return f"({code})" if code else "0"

    def prefetch(self, k: KernelBuilder) -> None:
        """Brings this block's share of the weights into the L2 cache while earlier kernels still run."""
        if self.w_c != "1" or not self.uniform or self.g.transposed or not self.g.w.constant:
            return
        steps = self.blocks * self.g.taps
        if not prefetched_steps(k, steps, self.tile):
            return
        delta = self._weight_delta(k, "ahead")
        along = f" + ({delta})[:, None]" if "ahead" in delta else ""
        k.line(f"line = b_base{along} + (n_index * {self.w_n})[None, :]")
        k.line(PREFETCH)


def prefetched_steps(k: KernelBuilder, steps: int, tile: Tile) -> bool:
    """Emits ``ahead``, the numbers of the main loop's first iterations whose weights are prefetched."""
    share = -(-steps // tile.split)
    many = min(1 << max(share - 1, 0).bit_length(), _PREFETCH_POINTERS // tile.n)
    if many < 1:
        return False
    begin = f"part * {share}" if tile.split > 1 else "0"
    k.line(f"ahead = tl.minimum({begin} + tl.arange(0, {many}), {steps - 1})")
    return True


PREFETCH = (
    'tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [line], '
    "dtype=tl.int32, is_pure=False, pack=1)"
)
"""One cache line for each pointer in ``line``."""


class FlatConvOperands(ConvOperands):
    """For few channels (an image): the depth is one run over taps and channels, gathered element by element."""

    def __init__(self, region: Region, tile: Tile) -> None:
        super().__init__(region, tile)
        self.depth = self.g.taps * self.g.in_channels
        self.steps = -(-self.depth // tile.k)
        self.bits = False

    def load(self, k: KernelBuilder) -> None:
        """One gathered tile of each operand."""
        g, tile = self.g, self.tile
        k.line(f"kk = step * {tile.k} + rk")
        k.line(f"c_coord = kk % {g.in_channels}")
        rest, deltas, weights = f"(kk // {g.in_channels})", [], []
        for i in reversed(range(len(g.kernel))):
            k.line(f"t_{i} = {rest} % {g.kernel[i]}")
            rest = f"({rest} // {g.kernel[i]})"
            deltas.append(times(f"t_{i}", k.dim(mul(g.dilation[i], g.x.strides[2 + i]))))
            weights.append(times(f"t_{i}", k.dim(g.w.strides[2 + i])))
        k.line(f"a_delta = {plus(times('c_coord', k.dim(g.x.strides[1])), *deltas)}")
        k.line(f"b_delta = {plus(times('c_coord', k.dim(g.w.strides[1])), *weights)}")
        tests = [] if self.depth % tile.k == 0 else [f"(kk < {self.depth})[None, :]"]
        for i in self.bounded:
            k.line(f"at_{i} = pos_{i}[:, None] + (t_{i} * {g.dilation[i]})[None, :]")
            tests.append(f"(at_{i} >= 0) & (at_{i} < {k.dim(g.input[i])})")
        tests_b = [] if self.depth % tile.k == 0 else [f"(kk < {self.depth})[:, None]"]
        if self.mask_b:
            tests_b.append(f"(n_local < {k.dim(self.cols)})[None, :]")
        k.line(f"a = tl.load(a_row + a_delta[None, :]{_guard(tests)})")
        k.line(f"b = tl.load(b_base + b_delta[:, None] + ({self.b_cols})[None, :]{_guard(tests_b)})")

    def prefetch(self, k: KernelBuilder) -> None:
        """The weights of an image's first convolution are small; nothing is worth a prefetch."""


def _guard(masks: list[str]) -> str:
    return f", mask={' & '.join(masks)}, other=0.0" if masks else ""


def _first_tap(g: Geometry, i: int, phase: int) -> int:
    """Least tap that meets this phase, or the kernel size when none does."""
    for tap in range(g.kernel[i]):
        if (phase + g.pad[i] - tap * g.dilation[i]) % g.stride[i] == 0:
            return tap
    return g.kernel[i]


def _tap_counts(g: Geometry, i: int) -> list[int]:
    """Taps that count, by phase."""
    if not g.transposed:
        return [g.kernel[i]]
    apart = g.stride[i] // math.gcd(g.stride[i], g.dilation[i])
    return [len(range(_first_tap(g, i, phase), g.kernel[i], apart)) for phase in range(g.stride[i])]


def _select(name: str, values: list[int]) -> str:
    """Code of ``values[name]`` as nested selects."""
    code = str(values[-1])
    for index in reversed(range(len(values) - 1)):
        if str(values[index]) != code:
            code = f"tl.where({name} == {index}, {values[index]}, {code})"
    return code
