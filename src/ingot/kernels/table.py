"""The one table of tactics, written out: what can run a Region, in order of preference for ties."""

from __future__ import annotations

from ingot.kernels.api import Tactic
from ingot.kernels.cuda.chain.tactic import TACTICS as CHAIN
from ingot.kernels.cuda.depthwise.tactic import TACTICS as DEPTHWISE
from ingot.kernels.cuda.excite.tactic import TACTICS as EXCITE
from ingot.kernels.cuda.gemv.tactic import TACTICS as GEMV
from ingot.kernels.cuda.hopper.tactic import TACTICS as HOPPER
from ingot.kernels.cuda.inverted.tactic import TACTICS as INVERTED
from ingot.kernels.cuda.map import TACTICS as MAP
from ingot.kernels.cuda.mma.tactic import TACTICS as MMA
from ingot.kernels.cuda.narrow.tactic import TACTICS as NARROW
from ingot.kernels.cuda.pool import TACTICS as POOL
from ingot.kernels.cuda.recurrent.tactic import TACTICS as RECURRENT
from ingot.kernels.cuda.reduce import TACTICS as REDUCE
from ingot.kernels.cuda.rowwise import TACTICS as ROWWISE
from ingot.kernels.cuda.scatter import TACTICS as SCATTER
from ingot.kernels.cuda.stem.tactic import TACTICS as STEM
from ingot.kernels.cuda.topk import TACTICS as TOPK
from ingot.kernels.plugin import TACTICS as PLUGIN
from ingot.kernels.triton.attention import TACTICS as ATTENTION
from ingot.kernels.triton.tactics import TACTICS as PRODUCTS

TACTICS: tuple[Tactic, ...] = (
    *STEM, *EXCITE, *INVERTED, *CHAIN, *HOPPER, *MMA, *GEMV, *DEPTHWISE, *NARROW, *PRODUCTS, *ATTENTION, *ROWWISE,
    *REDUCE, *POOL, *SCATTER, *TOPK, *RECURRENT, *MAP, *PLUGIN,
)  # fmt: skip
