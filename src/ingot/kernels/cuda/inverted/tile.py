"""The parameters of an inverted-residual kernel, and what they cost in shared memory and registers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ingot.kernels.api import Variant
from ingot.kernels.cuda.inverted.plan import InvertedPlan

_WIDEST = 4
"""Most pieces of 16 by 16 numbers that a warp makes at once."""
_UNIT = 60
"""Instructions of a warp for what it makes at once."""
_PIECE = 30
"""Instructions for a piece, beside its product."""


@dataclass(frozen=True)
class InvertedTile:
    """One variant of one Region."""

    plan: InvertedPlan
    height: int
    """Rows of the result that a cluster makes."""
    width: int
    """Columns of the result."""
    cluster: int
    """Blocks that share the hidden channels."""
    chunk: int
    """Hidden channels that are in shared memory at once, a multiple of 16."""
    threads: int

    @staticmethod
    def of(plan: InvertedPlan, variant: Variant) -> InvertedTile:
        """The tile that a Variant's text describes."""
        return InvertedTile(plan, **{_LONG[key]: value for key, value in variant.params})

    def variant(self, tactic: str) -> Variant:
        """The inverse of :meth:`of`."""
        return Variant(tactic, tuple((short, getattr(self, long)) for short, long in _LONG.items()))

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.threads // 32

    @property
    def chunks(self) -> int:
        """Parts of a block's hidden channels."""
        return -(-self.plan.hidden // (self.cluster * self.chunk))

    @property
    def slice(self) -> int:
        """Hidden channels of a block, with those beyond the last."""
        return self.chunks * self.chunk

    @property
    def depth(self) -> int:
        """Input channels, with zeros to a multiple of 16."""
        return -(-self.plan.channels // 16) * 16

    @property
    def cols(self) -> int:
        """Output channels, with zeros to a multiple of 16."""
        return -(-self.plan.cols // 16) * 16

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of an image along both axes."""
        height, width = self.plan.size
        return -(-height // self.height), -(-width // self.width)

    @property
    def seen(self) -> tuple[int, int]:
        """Rows and columns that the tile's taps see."""
        g = self.plan.geometry
        return (self.height - 1) * g.stride[0] + g.kernel[0], (self.width - 1) * g.stride[1] + g.kernel[1]

    @property
    def box(self) -> tuple[int, int]:
        """First column of those seen that is made, and how many: where a tile has whole rows, none beside the image."""
        if self.tiles[1] > 1:
            return 0, self.seen[1]
        left = self.plan.geometry.pad[1]
        return left, min(int(self.plan.geometry.input[1]), self.seen[1] - left)

    @property
    def pixels(self) -> int:
        """Pixels whose hidden channels are made."""
        return self.seen[0] * self.box[1]

    @property
    def results(self) -> int:
        """Pixels of the result."""
        return self.height * self.width

    @property
    def wide_expansion(self) -> int:
        """Pieces of 16 columns that a warp makes at once: those that keep all warps busy for the shortest time."""
        pieces = self.chunk // 16
        fitting = [n for n in range(1, _WIDEST + 1) if pieces % n == 0]
        return min(fitting, key=lambda n: (self.expansion(n), n))

    def expansion(self, wide: int) -> int:
        """Instructions of the busiest warp for the first product of a chunk, with ``wide`` pieces at once."""
        units = -(-self.pixels // 16) * (self.chunk // 16 // wide)
        each = _UNIT + self.depth // 16 * (1 + 3 * wide) + wide * _PIECE
        return -(-units // self.warps) * each

    @property
    def tall(self) -> int:
        """Times sixteen pixels of the depthwise convolution that a warp makes at once, in the same way."""
        fitting = range(1, min(_WIDEST, -(-self.results // 16)) + 1)
        return min(fitting, key=lambda n: (self.depthwise(n), n))

    def depthwise(self, tall: int) -> int:
        """Instructions of the busiest warp for the depthwise convolution of a chunk."""
        tiles = -(-self.results // 16)
        units = -(-tiles // tall) * (self.chunk // 16)
        taps = self.plan.geometry.taps
        return -(-units // self.warps) * (_UNIT + taps * (4 + 3 * tall) + tall * _PIECE)

    @property
    def rounds_of_product(self) -> int:
        """Units of 16 pixels and 16 columns of the result that the busiest warp adds up."""
        return -(-(-(-self.results // 16) * (self.cols // 16)) // self.warps)

    @property
    def share(self) -> int:
        """Sums that one block finishes, a multiple of 4."""
        return -(-self.results * self.plan.cols // (4 * self.cluster)) * 4

    @cached_property
    def places(self) -> dict[str, int]:
        """Bytes from the start of shared memory by name; ``""`` is the end."""
        pitch_x, pitch_h, pitch_w = (2 * count + 16 for count in (self.depth, self.chunk, self.slice))
        seen = self.seen
        sizes = {
            "Widen": self.slice * pitch_x if self.plan.widen else 0,
            "Taps": self.plan.geometry.taps * self.slice * 2,
            "Narrow": self.cols * pitch_w,
            "BiasWiden": 2 * self.slice,
            "BiasSpread": 2 * self.slice,
            "BiasNarrow": 2 * self.cols,
            "Image": -(-self.pixels // 16) * 16 * pitch_x if self.plan.widen else 0,
            "HiddenTile": seen[0] * seen[1] * pitch_h,
            "SpreadTile": -(-self.results // 16) * 16 * pitch_h,
            "Got": 4 * self.cluster * self.share,
            "Barrier": 8,
        }
        places: dict[str, int] = {}
        at = 0
        for name, size in sizes.items():
            places[name] = at
            at += -(-size // 16) * 16
        return places | {"": at}

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.places[""]


_LONG = {
    "th": "height", "tw": "width", "cl": "cluster", "hc": "chunk", "nt": "threads",
}  # fmt: skip
