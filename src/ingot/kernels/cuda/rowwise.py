"""Softmax, normalisations and any other pointwise ops and reductions over common axes, as generated CUDA C++.

A row is held in registers between its stages when it fits; otherwise it is read again (from the
caches). Contiguous rows get some lanes, a warp or a block each; rows that lie side by side in
memory (softmax over the channels of an NCHW tensor) are processed by vectors of rows.
"""

from __future__ import annotations

from ingot.graph.region import Kind
from ingot.kernels.cuda.rows.tactic import RowTactic, row_tactic

ROWWISE = row_tactic("cuda.rowwise", Kind.ROWWISE, may_split=False)
TACTICS: tuple[RowTactic, ...] = (ROWWISE,)
