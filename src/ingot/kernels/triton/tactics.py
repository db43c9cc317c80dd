"""The Triton product tactics, written out, in order of preference for ties."""

from __future__ import annotations

from ingot.kernels.api import Tactic
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic

TACTICS: tuple[Tactic, ...] = (DepthwiseTactic(), ConvTactic(), GemmTactic())
