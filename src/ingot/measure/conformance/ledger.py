"""The ledger of a run over the whole suite: what is kept of it, and the page made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from ingot.measure.conformance.verdict import KINDS, Outcome

GROUPS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
RIGHT = ("pass", "near", "island")
_NATIVE = ("pass", "near")
_MEANING = {
    "pass": "equal within the suite's own tolerances, all on the target",
    "near": "all on the target, and up to 10 times further off than the suite allows",
    "island": "right, up to the same 10 times, and some op stays on the host",
    "refused": "one clear error, no result",
    "wrong": "anything else: another result, a crash, a hang, an exception that is no refusal",
}


class Column(msgspec.Struct, frozen=True):
    """The suite on one target."""

    target: str
    counts: dict[str, dict[str, int]]
    """Per group, how many cases went which way."""
    plain: list[str]
    """Ops of which some case is a plain pass without a remark: that case is not among those that run again."""
    ops: int
    """Ops that some case has."""
    remarks: list[Outcome]
    """Every case that is not a plain pass, with its ops where :attr:`native` or :attr:`constants` counts them."""
    machine: str = ""
    """The device and the versions of a run that was on a GPU; else the ledger's versions hold."""

    @property
    def native(self) -> list[str]:
        """Ops of which some case is right without an island."""
        return sorted({*self.plain, *(op for o in self.remarks if o.kind in _NATIVE for op in o.ops)})

    @property
    def constants(self) -> list[str]:
        """Further ops of which some case is right without an island when their parameters are constants."""
        return sorted({op for o in self.remarks if o.as_constants for op in o.ops} - set(self.native))


class Ledger(msgspec.Struct, frozen=True):
    """The suite on all targets."""

    versions: dict[str, str]
    columns: list[Column]


def column(target: str, outcomes: Sequence[Outcome], machine: str = "") -> Column:
    """What the ledger keeps of ``outcomes``."""
    counts: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        of_group = counts.setdefault(outcome.case.partition("/")[0], dict.fromkeys(KINDS, 0))
        of_group[outcome.kind] += 1
    plain = {op for o in outcomes if not _remarkable(o) for op in o.ops}
    remarks = [o if _counts(o) else msgspec.structs.replace(o, ops=[]) for o in outcomes if _remarkable(o)]
    ops = len({op for o in outcomes for op in o.ops})
    return Column(target, counts, sorted(plain), ops, remarks, machine)


def _remarkable(outcome: Outcome) -> bool:
    return outcome.kind != "pass" or bool(outcome.reason)


def _counts(outcome: Outcome) -> bool:
    return outcome.kind in _NATIVE or outcome.as_constants


def renewed(old: Column, outcomes: Sequence[Outcome], machine: str = "") -> Column:
    """``old`` with the cases of ``outcomes``, which must be among its remarks, as they came out in a later run."""
    before = {o.case: o for o in old.remarks}
    counts = {group: dict(of_group) for group, of_group in old.counts.items()}
    for outcome in outcomes:
        of_group = counts[outcome.case.partition("/")[0]]
        of_group[before[outcome.case].kind] -= 1
        of_group[outcome.kind] += 1
    new = column(old.target, outcomes, machine)
    done = {outcome.case for outcome in outcomes}
    kept = [o for o in old.remarks if o.case not in done]
    plain = {*old.plain, *new.plain}
    return Column(old.target, counts, sorted(plain), old.ops, [*kept, *new.remarks], machine)


def page(ledger: Ledger) -> str:
    """The ledger as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in ledger.versions.items())
    parts = [
        "# Conformance",
        "ONNX's own backend suite (`onnx.backend.test`: the single ops, the small and PyTorch-made models, the light"
        " networks) through the whole path: import, passes, lowering, plan, engine, run."
        " Made by `python benchmarks/conformance.py`; do not edit.",
        "Targets `cpu` and `cuda` run the engine, the latter on a GPU. A target with a GPU's name is its plan in the"
        " simulator: memory, edges, islands and bodies are real, and each kernel's arithmetic is done on the host.",
        f"Versions: {versions}.",
        *(f"`{one.target}`: {one.machine}." for one in ledger.columns if one.machine),
        "\n".join(f"- **{kind}**: {_MEANING[kind]}." for kind in KINDS),
        _totals(ledger.columns),
        *(_groups(one) for one in ledger.columns),
        *(_native(one) for one in ledger.columns if one.target != "cpu"),
        *(_remarks(one) for one in ledger.columns),
    ]
    return "\n\n".join(parts) + "\n"


def total(one: Column) -> Counter[str]:
    """How many cases went which way, of all groups."""
    return sum((Counter(counts) for counts in one.counts.values()), Counter[str]())


def _totals(columns: Sequence[Column]) -> str:
    lines = [_row("target", "cases", *KINDS, "right"), _row(*["---", *["---:"] * (len(KINDS) + 2)])]
    for one in columns:
        counts = total(one)
        right = sum(counts[kind] for kind in RIGHT)
        lines.append(_row(f"`{one.target}`", counts.total(), *(counts[kind] for kind in KINDS), right))
    return "\n".join(lines)


def _groups(one: Column) -> str:
    lines = [f"## `{one.target}`, by group", "", _row("group", *KINDS), _row("---", *["---:"] * len(KINDS))]
    known = [group for group in GROUPS if group in one.counts]
    lines += [_row(group, *(one.counts[group][kind] for kind in KINDS)) for group in known]
    return "\n".join(lines)


def _native(one: Column) -> str:
    names = ", ".join(one.native)
    return (
        f"## `{one.target}`: ops on the device\n\n{len(one.native)} of the {one.ops} op names of the suite are in some"
        f" case that is right without an island:\n\n{names}.\n\n{_constants(one)}"
    )


def _constants(one: Column) -> str:
    if not one.constants:
        return "Parameters as constants, which is how exporters write them, bring no further op to the device."
    return (
        f"{len(one.constants)} more are when their parameters (axes, sizes, counts) are constants, which is how"
        f" exporters write them, and not inputs as in the suite: {', '.join(one.constants)}."
    )


def _remarks(one: Column) -> str:
    order = {kind: number for number, kind in enumerate(("wrong", "refused", "near", "island", "pass"))}
    rows = sorted(one.remarks, key=lambda o: (order[o.kind], o.case))
    lines = [f"## `{one.target}`: every case that is not a plain pass", ""]
    if not rows:
        return "\n".join([*lines, "None."])
    lines += [_row("case", "", "reason"), _row("---", "---", "---")]
    return "\n".join([*lines, *(_row(o.case, o.kind, _cell(o.reason)) for o in rows)])


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
