"""In which stage of a reduction kernel each value per column is loaded or computed."""

from __future__ import annotations

from ingot.graph.region import BodyOp
from ingot.kernels.cuda.rows.plan import RowPlan


class Schedule:
    """Stages of the full values of a plan.

    With ``held`` a value is computed once, as late as its readers allow, and kept in registers; without, each stage
    computes again whatever it needs.
    """

    def __init__(self, plan: RowPlan, held: bool) -> None:
        self.plan, self.held = plan, held
        self.stage_of = self._stages()

    def _stages(self) -> dict[str, int]:
        """Stage in which each full value is computed (or loaded): as late as its readers allow."""
        plan, last = self.plan, self.plan.stages
        stage: dict[str, int] = {}
        for op in reversed(plan.ops):
            name = op.outputs[0]
            if plan.is_reduction(op):
                when = plan.level[name] - 1
            elif name not in plan.full:
                continue
            else:
                when = plan.level[name] if name in plan.region.outputs else stage.get(name, last)
                when = min(when, stage.get(name, last))
                stage[name] = when
            for read in plan.reads(op):
                if read in plan.full:
                    stage[read] = min(stage.get(read, last), when)
        return stage

    def needed(self, stage: int) -> tuple[list[BodyOp], list[str]]:
        """Full ops and full inputs evaluated in the loop of ``stage``."""
        plan = self.plan
        if self.held:
            ops = [op for op in plan.ops if op.outputs[0] in plan.full and self.stage_of[op.outputs[0]] == stage]
            reads = {n for op in (*ops, *self.reductions(stage)) for n in plan.reads(op) if n in plan.full}
            return ops, [n for n in self.plan.full_inputs if n in reads]
        wanted = {op.inputs[0] for op in self.reductions(stage)} | set(self.full_outputs(stage))
        ops = []
        for op in reversed(plan.ops):
            if op.outputs[0] in wanted and op.outputs[0] in plan.full:
                ops.append(op)
                wanted.update(n for n in plan.reads(op) if n in plan.full)
        return ops[::-1], [n for n in self.plan.full_inputs if n in wanted]

    def reductions(self, stage: int) -> list[BodyOp]:
        """Reductions that are finished at the end of ``stage``."""
        return [
            op for op in self.plan.ops if self.plan.is_reduction(op) and self.plan.level[op.outputs[0]] == stage + 1
        ]

    def full_outputs(self, stage: int) -> list[str]:
        """Outputs per column that are stored in ``stage``."""
        names = (n for n in self.plan.region.outputs if n in self.plan.full)
        return [n for n in names if self.stage_of[n] == stage]

    def held_value(self, name: str) -> bool:
        """Whether a computed full value is read in a later stage than its own."""
        readers = (op for op in self.plan.ops if name in self.plan.reads(op))
        return any(self._stage_of_op(op) > self.stage_of[name] for op in readers)

    def _stage_of_op(self, op: BodyOp) -> int:
        name = op.outputs[0]
        return self.plan.level[name] - 1 if self.plan.is_reduction(op) else self.stage_of.get(name, 0)
