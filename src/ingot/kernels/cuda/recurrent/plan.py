"""What a recurrent Region is to its kernels: sizes, operands by role, and why there is no kernel for it."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.recurrent import C0, DOMAIN, H0, LENGTHS, B, P, R, Recurrence, X, recurrence_of
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec

FLOATS = ("float32", "float16", "bfloat16")
OPERANDS = {"x": X, "r": R, "bias": B, "lengths": LENGTHS, "h0": H0, "c0": C0, "peephole": P}
RESULTS = ("y", "yh", "yc")
_MOST = 1 << 30
"""Elements of R that an int counts."""


@dataclass(frozen=True)
class RecurrentPlan:
    """One Region."""

    region: Region
    form: Recurrence
    dtype: str
    operands: tuple[tuple[str, str], ...]
    """Role and name of the operands that there are."""
    results: tuple[tuple[str, str], ...]
    """Role and name of the results that somebody reads."""

    def spec(self, role: str) -> TensorSpec | None:
        """The tensor of an operand or a result, None for one that is absent."""
        name = dict(self.operands + self.results).get(role)
        return None if name is None else self.region.spec_of[name]

    @property
    def product(self) -> TensorSpec:
        """The product of the inputs: ``[steps, batch, columns]``, or the batch first."""
        found = self.spec("x")
        assert found is not None
        return found

    @property
    def steps(self) -> Dim:
        """Steps in time."""
        return self.product.shape[1 if self.form.batch_first else 0]

    @property
    def batch(self) -> Dim:
        """Rows of the batch."""
        return self.product.shape[0 if self.form.batch_first else 1]

    @property
    def two_halves(self) -> bool:
        """Whether a step has two products one after the other."""
        return self.form.op == "GRU" and not self.form.reset_after


def plan_recurrent(region: Region) -> RecurrentPlan | No:
    """The Region as a recurrent layer, or why it has no kernel."""
    op = region.anchor
    if len(region.ops) != 1 or op.domain != DOMAIN:
        return No(f"{op.op} together with the product of its inputs", node=region.name)
    operands = {role: op.inputs[i] for role, i in OPERANDS.items() if i < len(op.inputs) and op.inputs[i]}
    hidden = region.spec_of[operands["r"]].shape[-1]
    if not isinstance(hidden, int):
        return No("the size of the state is not known", node=region.name)
    form = recurrence_of(op, hidden)
    if isinstance(form, No):
        return form
    results = {role: n for role, n in zip(RESULTS, op.outputs, strict=False) if n in region.outputs}
    plan = RecurrentPlan(region, form, region.spec_of[operands["x"]].dtype, (*operands.items(),), (*results.items(),))
    refused = _refusal(plan)
    return plan if refused is None else refused


def _refusal(plan: RecurrentPlan) -> No | None:
    form, name = plan.form, plan.region.name
    if plan.dtype not in FLOATS:
        return No(f"{form.op} of {plan.dtype}", node=name)
    for role, value in (*plan.operands, *plan.results):
        dtype = plan.region.spec_of[value].dtype
        if dtype != ("int32" if role == "lengths" else plan.dtype):
            return No(f"{role} of {dtype} in a layer of {plan.dtype}", node=name)
    if form.hidden * form.columns > _MOST:
        return No(f"a state of {form.hidden}", node=name)
    return None
