"""The parameters of a stem kernel, and where everything lies in its shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ingot.graph.dims import Dim, divisible
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Variant
from ingot.kernels.cuda.stem.depth import Depth, arrange
from ingot.kernels.cuda.stem.plan import StemPlan

PIXELS = 16
"""Of the convolution's result, that a warp multiplies at a time."""
_SLACK = 1024
"""To align the weights to the pattern of their permutation."""
_WIDE_LOAD = 4
"""Pixels of one load where the image allows it."""


@dataclass(frozen=True)
class StemTile:
    """The parameters of a variant."""

    warps: int
    rows: int
    """Rows of the result per block."""
    wide: int
    """Times 16 pixels of the convolution's result per row of a block; with a pooling one per warp."""

    @staticmethod
    def of(variant: Variant) -> StemTile:
        """The tile that a Variant's text describes."""
        return StemTile(variant["warps"], variant["rows"], variant["wide"])

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        return Variant(tactic, (("warps", self.warps), ("rows", self.rows), ("wide", self.wide)))

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps


@dataclass(frozen=True)
class Form:
    """A plan cut into tiles: sizes in pixels, 16-bit elements, or words of two of them."""

    plan: StemPlan
    tile: StemTile

    @property
    def window(self) -> int:
        """Of the pooling; 0 without one."""
        return self.plan.pool.window if self.plan.pool else 0

    @property
    def pixel(self) -> int:
        """Elements of a pixel in shared memory: windows start at whole words."""
        return self.plan.channels + self.plan.stride[1] * self.plan.channels % 2

    @cached_property
    def columns(self) -> int:
        """Columns of the result per block."""
        return self.tile.wide * {0: PIXELS, 2: PIXELS // 2, 3: PIXELS // 2 - 1}[self.window]

    @cached_property
    def blocks(self) -> tuple[int, int]:
        """Blocks of one image, (rows, columns)."""
        height, width = self.plan.result_size
        return -(-height // self.tile.rows), -(-width // self.columns)

    @property
    def conv_rows(self) -> int:
        """Rows of the convolution that a block computes."""
        return {0: 1, 2: 2, 3: 2}[self.window] * self.tile.rows + (self.window == 3)

    @property
    def per_warp(self) -> int:
        """Tiles of 16 pixels that a warp multiplies."""
        return self.conv_rows if self.window else -(-self.tile.rows * self.tile.wide // self.tile.warps)

    @property
    def first_column(self) -> int:
        """Column of the convolution at which the first block begins: 3 x 3 poolings see a pair more than they give."""
        pool = self.plan.pool
        if pool is None:
            return 0
        return -pool.left - (1 if pool.window == 3 else 0)

    @property
    def warp_pixels(self) -> int:
        """Columns of the convolution from one tile to the next."""
        return 14 if self.window == 3 else PIXELS

    @property
    def step(self) -> int:
        """Words from one pixel of the convolution's result to the next."""
        return self.plan.stride[1] * self.pixel // 2

    @property
    def quad_step(self) -> int:
        """Words from one quad of lanes to the next: with a pooling each holds two neighbours."""
        return self.step * (2 if self.window else 1)

    @property
    def half_step(self) -> int:
        """Words from the first pixel of a lane to its second."""
        return self.step * (1 if self.window else PIXELS // 2)

    @cached_property
    def channels_inner(self) -> bool:
        """Whether the image's channels lie side by side."""
        spec = self.plan.region.spec_of[self.plan.image]
        return self.plan.channels > 1 and spec.strides[1] == 1 and spec.strides[3] == self.plan.channels

    @cached_property
    def load(self) -> int:
        """Pixels of the image per load."""
        spec = self.plan.region.spec_of[self.plan.image]
        strides: list[Dim] = [spec.strides[0], spec.strides[2]]
        if not self.channels_inner:
            strides += [spec.strides[1]] if self.plan.channels > 1 else []
            if spec.strides[3] != 1:
                return 1
        aligned = spec.align % (_WIDE_LOAD * itemsize(spec.dtype)) == 0
        whole = self.plan.size[1] % _WIDE_LOAD == 0 and self.block_step % _WIDE_LOAD == 0
        return _WIDE_LOAD if aligned and whole and all(divisible(s, _WIDE_LOAD) for s in strides) else 1

    @property
    def block_step(self) -> int:
        """Columns of the image from one block to the next."""
        return self.columns * (2 if self.window else 1) * self.plan.stride[1]

    @property
    def first_x(self) -> int:
        """Column of the image at which the first window of the first block begins."""
        return self.first_column * self.plan.stride[1] - self.plan.left

    @property
    def shift(self) -> int:
        """Pixels between the first that is loaded and the first window's."""
        return self.first_x % self.load

    @property
    def lead(self) -> int:
        """Elements between the word that a window's row begins in and the row's first."""
        return self.shift * self.pixel % 2

    @property
    def start(self) -> int:
        """Word of the first window in its row of shared memory."""
        return (self.shift * self.pixel - self.lead) // 2

    @cached_property
    def depth(self) -> Depth:
        """Order of multiplication."""
        words = -(-(self.lead + self.plan.taps[1] * self.pixel) // 2)
        return arrange(self.plan.taps[0], words, self.quad_step, self.plan.dilation)

    @cached_property
    def row_pixels(self) -> int:
        """Pixels of a row in shared memory, whole loads."""
        last = self.warp_pixels * (self.tile.wide - 1) + PIXELS - 1
        words = self.start + last * self.step + self.depth.extent[1]
        loads = -(-2 * words // (self.pixel * self.load))
        return loads * self.load

    @property
    def lanes_wide(self) -> int:
        """Lanes that load a row of the image together: a power of two."""
        groups = self.row_pixels // self.load
        return next((lanes for lanes in (4, 8, 16) if groups <= lanes), 32)

    @property
    def pitch(self) -> int:
        """Words between rows in shared memory."""
        least = -(-self.row_pixels * self.pixel // 2)
        return least + (self.depth.pitch - least) % 32

    @cached_property
    def image_rows(self) -> tuple[int, int]:
        """Rows of the image that a block needs, and those in its shared memory (the others are zero)."""
        first = (self.conv_rows - 1) * self.plan.stride[0]
        reach = (self.plan.taps[0] - 1) * self.plan.dilation + 1
        return first + reach, first + max((self.depth.extent[0] - 1) * self.plan.dilation + 1, reach)

    @property
    def row_loads(self) -> int:
        """Loads of a lane for one row of the image."""
        return -(-(self.row_pixels // self.load) // self.lanes_wide)

    @property
    def warp_rows(self) -> int:
        """Rows of the image that a group of lanes loads."""
        return -(-self.image_rows[1] // (self.tile.warps * (32 // self.lanes_wide)))

    @property
    def tiles_n(self) -> int:
        """Eights of output channels."""
        return -(-self.plan.outputs // 8)

    @property
    def weight_bytes(self) -> int:
        """Shared memory of the weights: rows of 64 output channels."""
        return -(-self.tiles_n // 8) * self.depth.steps * 16 * 128

    @property
    def table_bytes(self) -> int:
        """Shared memory of what the epilogue reads for each channel, as floats."""
        return max(len(self.plan.columns), 1) * self.tiles_n * 8 * 4

    @property
    def shared(self) -> int:
        """Dynamic shared memory, bytes."""
        return _SLACK + self.weight_bytes + self.table_bytes + self.image_rows[1] * self.pitch * 4

    @property
    def resident(self) -> int:
        """Blocks per SM that the compiler leaves registers for: 128 per thread, 255 where accumulators are many."""
        return max((512 if self.tiles_n <= 8 else 256) // self.tile.threads, 1)
