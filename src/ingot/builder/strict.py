"""``--strict``: a build that would need the host is refused, with every reason and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.errors import IngotError, No
from ingot.graph.lowered import Lowered
from ingot.importer.coverage import OpCount

_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_WITHOUT = "build without --strict, or mend what is listed"


def fix_of(op: str, no: No) -> str:
    """What the user can do about the refusal of ``op``; empty where nothing in the model can."""
    if no.fix:
        return no.fix
    if op in _CONTROL:
        return "export without control flow: with a constant condition or number of turns it unrolls"
    if "depends on data" in no.reason:
        return "end the model before the op whose result depends on data, and do the rest outside"
    if "computed from data" in no.reason:
        return "make it a constant when exporting"
    return ""


def refuse_islands(lowered: Lowered) -> None:
    """Raises IngotError naming every node that would run on the host, why, and the fix. Nothing where there is none."""
    rows = []
    for region in lowered.regions:
        pairs = zip(region.ops, lowered.refusals.get(region.name, ()), strict=False)
        rows += [_row(no.node, no.reason, fix_of(op.op, no)) for op, no in pairs]
    if rows:
        count = "1 node has" if len(rows) == 1 else f"{len(rows)} nodes have"
        raise IngotError(f"{count} no device kernel here:" + "".join(rows) + "\n", fix=_WITHOUT)


def refuse_whole(why: No, ops: Sequence[OpCount]) -> None:
    """Raises IngotError for a model of which nothing runs on the device: the reason, and all ops without a kernel."""
    rows = [_row(why.node, why.reason, why.fix)]
    rows += [
        _row("", f"{op.reason.reason} ({op.count} of them)", fix_of(op.op, op.reason))
        for op in ops
        if op.reason is not None
    ]
    raise IngotError("nothing of this model runs on the GPU:" + "".join(rows) + "\n", fix=_WITHOUT)


def _row(node: str, reason: str, fix: str) -> str:
    return f"\n  {f'{node}: ' if node else ''}{reason}{f' (fix: {fix})' if fix else ''}"
