"""Reductions over any set of axes with pointwise prologue and epilogue, as generated CUDA C++.

Loops follow the memory order of the largest tensor: a reduced innermost axis is shared by the lanes
of a warp or block, a kept one spreads over the lanes. A reduction with few results is split over blocks
and finished by a second kernel, in a fixed order, so results are the same in every run.
"""

from __future__ import annotations

from ingot.graph.region import Kind
from ingot.kernels.cuda.rows.tactic import RowTactic, row_tactic

REDUCE = row_tactic("cuda.reduce", Kind.REDUCE, may_split=True)
TACTICS: tuple[RowTactic, ...] = (REDUCE,)
