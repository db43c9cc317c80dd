"""From the canonical ONNX graph to Regions that device kernels accept, and host islands for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.dims import symbols
from ingot.graph.lowered import DataSize, Guard, Lowered, SymbolRange
from ingot.graph.region import PRODUCTS, Kind, Region
from ingot.importer.infer import infer_shapes
from ingot.passes.chains import join_pointwise
from ingot.passes.data_sizes import accepts_sizes, data_sizes, sources
from ingot.passes.excite import mark_excites
from ingot.passes.flatten import FlatGraph, flatten
from ingot.passes.host import host_model
from ingot.passes.inverted import join_inverted
from ingot.passes.islands import cheaper_on_host
from ingot.passes.layout import Layout, assign_layout
from ingot.passes.lazy import Laziness, decide, guards
from ingot.passes.partition import Group, partition
from ingot.passes.quantized import write_out_products
from ingot.passes.quantized_siblings import join_quantized_siblings
from ingot.passes.quantized_sums import join_quantized_sums
from ingot.passes.recurrent import split_recurrences
from ingot.passes.stem import mark_stems, widen_stems
from ingot.plugins.api import Layout as PluginLayout
from ingot.plugins.record import is_record, record_of
from ingot.plugins.registry import active

Accepts = Callable[[Region], Answer]
_ROUNDS = 64
"""Most times the graph is cut anew after a refusal; each round settles at least one node."""


@dataclass(frozen=True)
class _Cut:
    flat: FlatGraph
    groups: list[Group]
    layout: Layout

    @cached_property
    def owner(self) -> dict[str, Group]:
        """The group that makes each value."""
        return {out: group for group in self.groups for i in group.ops for out in self.flat.ops[i].body.outputs}


def lower(model: ir.Model, ranges: tuple[SymbolRange, ...], accepts: Accepts) -> Lowered | No:
    """Fuses, assigns layouts, and asks ``accepts`` about every Region.

    A fused Region that is refused is tried again op by op; a single op that is refused goes to a
    host island with the reason. Returns No when the whole graph must run on the host.
    """
    inputs = frozenset(r.symbol for r in ranges)
    ranks = {value: len(value.shape) for value in model.graph.outputs if value.shape is not None}
    _forget_foreign_shapes(model, inputs)
    _free_outputs(model)
    infer_shapes(model)
    for value, rank in ranks.items():
        if value.shape is None:
            value.shape = ir.Shape([None] * rank)
    data = data_sizes(model, ranges)
    lazy = decide(model, ranges)
    while True:
        cut = _cut(model, (*ranges, *data), frozenset(r.symbol for r in data), accepts, lazy)
        if isinstance(cut, No):
            return cut
        wanted = _on_device(cut, data)
        found = sources(tuple(cut.layout.regions), tuple(r.symbol for r in wanted))
        if isinstance(found, str):
            wanted = tuple(r for r in wanted if r.symbol != found)
        if wanted == data:
            assert not isinstance(found, str)
            return _lowered(model, cut, (*ranges, *data), found)
        data = wanted  # without those that gain nothing, or are not to be had


def _on_device(cut: _Cut, data: tuple[SymbolRange, ...]) -> tuple[SymbolRange, ...]:
    """Those of ``data`` that a heavy Region on the device has to do with."""
    regions = [r for r in cut.layout.regions if r.kind in PRODUCTS]
    dims = {dim for region in regions for spec in region.spec_of.values() for dim in spec.shape if isinstance(dim, str)}
    used = {symbol for dim in dims for symbol in symbols(dim)}
    return tuple(r for r in data if r.symbol in used)


def _cut(
    model: ir.Model, ranges: tuple[SymbolRange, ...], data: frozenset[str], accepts: Accepts, lazy: Laziness
) -> _Cut | No:
    """The graph cut into Regions that ``accepts`` takes, and islands. ``data``: symbols that are known late."""
    known = frozenset(r.symbol for r in ranges)

    def takes(region: Region) -> Answer:
        answer = accepts_sizes(region, data, known) if data else YES
        return accepts(region) if answer else answer

    host = dict(lazy.host)
    solo: set[str] = set()
    plain: dict[str, str] = {}
    apart: set[tuple[Kind, str]] = set()
    usual = {r.symbol: r.opt for r in ranges}
    for _ in range(_ROUNDS):
        flat = flatten(model, known, host)
        if isinstance(flat, No):
            return flat
        flat = replace(flat, notes={name: f"as it was written: {reason}" for name, reason in plain.items()})
        flat = split_recurrences(flat, frozenset(plain))
        flat = write_out_products(flat, frozenset(plain))
        if not lazy.conditions:  # they know ops by name
            flat = join_quantized_siblings(flat)
        flat = widen_stems(mark_stems(flat, frozenset(plain)), frozenset(plain))
        flat = replace(flat, guards=guards(flat, lazy.conditions))
        flat = mark_excites(flat, frozenset(plain))
        flat, groups = join_quantized_sums(flat, partition(flat, frozenset(solo)), apart)
        groups = join_inverted(flat, groups, apart, usual)
        groups = join_pointwise(flat, groups, apart, usual)
        cut = _Cut(flat, groups, assign_layout(flat, groups))
        if _settle(cut, takes, host, solo, plain, apart):
            continue
        moved = cheaper_on_host(flat, groups, usual)
        if not moved:
            return cut
        host |= moved
    raise AssertionError("partitioning did not settle")


def _forget_foreign_shapes(model: ir.Model, known: frozenset[str]) -> None:
    """Drops declared shapes over symbols that are no input's: exporters name dimensions that inference can compute."""
    for node in model.graph:
        for value in node.outputs:
            dims = value.shape or ()
            if any(not isinstance(d, int) and not (d.value is not None and symbols(str(d)) <= known) for d in dims):
                value.shape = None


def _free_outputs(model: ir.Model) -> None:
    """A plugin that wants channels last cannot write an output of the engine, which is row-major: a copy follows it."""
    for node in list(model.graph):
        plugin = active().find(node.domain, node.op_type)
        if plugin is None or plugin.layout is not PluginLayout.CHANNELS_LAST:
            continue
        for value in [v for v in node.outputs if v.is_graph_output()]:
            copy = ir.node("Identity", [value], name=f"{value.name}/output")
            model.graph.insert_after(node, copy)
            final, inner = copy.outputs[0], value
            final.name, inner.name = value.name, f"{value.name}/channels_last"
            final.type, final.shape = value.type, value.shape
            model.graph.outputs[list(model.graph.outputs).index(value)] = final


def _settle(
    cut: _Cut,
    accepts: Accepts,
    host: dict[str, No],
    solo: set[str],
    plain: dict[str, str],
    apart: set[tuple[Kind, str]],
) -> bool:
    """Records refusals (in ``plain`` those of what was rewritten, in ``apart`` those of joined convolutions).

    True when the graph has to be cut again.
    """
    again = False
    for region in cut.layout.regions:
        if region.kind in (Kind.VIEW, Kind.HOST):
            continue
        answer = accepts(region)
        if answer:
            continue
        group = cut.owner.get(region.outputs[0])
        assert group is not None, f"no kernel copies {region.inputs[0]}: {answer}"
        names = [cut.flat.ops[i].name for i in group.ops]
        made_from = {cut.flat.ops[i].origin for i in group.ops} - {""}
        again = True
        if group.kind in (Kind.CHAIN, Kind.SUM, Kind.INVERTED):
            apart.add((group.kind, names[0]))
        elif made_from:
            plain.update(dict.fromkeys(sorted(made_from), str(answer)))  # back to the node as it was
        elif len(names) > 1 and not set(names) <= solo:
            solo.update(names)
        else:
            for name in names:
                host[name] = (
                    No(answer.reason, node=name, fix=answer.fix) if isinstance(answer, No) else No("refused", name)
                )
    return again


def _noted(cut: _Cut) -> list[Region]:
    """The Regions, with what is worth reporting of their ops."""
    found = []
    for region in cut.layout.regions:
        group = cut.owner.get(region.outputs[0])
        names = [] if group is None else [cut.flat.ops[i].name for i in group.ops]
        notes = tuple(cut.flat.notes[name] for name in names if name in cut.flat.notes)
        guard = cut.flat.guards.get(names[0], ()) if names else ()
        notes += tuple(f"runs only where {name!r} is {str(wanted).lower()}" for name, wanted in guard)
        found.append(replace(region, notes=(*region.notes, *notes)) if notes else region)
    return found


def _guards(cut: _Cut) -> dict[str, Guard]:
    """Regions that run under conditions; copies do if all that read them do."""
    found: dict[str, Guard] = {}
    wanted: dict[str, list[Guard]] = {}
    for region in reversed(cut.layout.regions):
        group = cut.owner.get(region.outputs[0])
        if group is not None:
            guard = cut.flat.guard(cut.flat.ops[group.ops[0]])
        else:
            rows = [set(row) for name in region.outputs for row in wanted.get(name, [()])]
            guard = tuple(sorted(set.intersection(*rows)))
        if guard:
            found[region.name] = guard
        for name in region.inputs:
            wanted.setdefault(name, []).append(guard)
    return found


def _lowered(model: ir.Model, cut: _Cut, ranges: tuple[SymbolRange, ...], data: tuple[DataSize, ...]) -> Lowered | No:
    layout, flat = cut.layout, cut.flat
    nodes = {node.name or f"{node.op_type}_{i}": node for i, node in enumerate(model.graph)}
    bodies: dict[str, bytes] = {}
    refusals: dict[str, tuple[No, ...]] = {}
    for group in cut.groups:
        if group.kind is not Kind.HOST:
            continue
        region = next(r for r in layout.regions if r.kind is Kind.HOST and r.name == flat.ops[group.ops[0]].name)
        missing = [n for n in (*region.inputs, *region.outputs) if n not in layout.values]
        refusals[region.name] = tuple(no for i in group.ops if (no := flat.ops[i].reason) is not None)
        if missing:
            fix = next((no.fix for no in refusals[region.name] if no.fix), "")
            return No(f"value {missing[0]!r} between host and device has no device type", node=region.name, fix=fix)
        if flat.ops[group.ops[0]].plugin is not None:
            bodies[region.name] = record_of(region)
            continue
        bodies[region.name] = host_model(
            model, [nodes[flat.ops[i].name] for i in group.ops], region, flat.constants, layout.copies
        )
    used = {n for region in layout.regions for n in (*region.inputs, *region.outputs)} | {*flat.inputs, *flat.outputs}
    used |= {window.parent for window in layout.windows.values()}
    return Lowered(
        inputs=flat.inputs,
        outputs=flat.outputs,
        values={n: s for n, s in layout.values.items() if n in used},
        regions=tuple(_noted(cut)),
        constants=_used_constants(flat.constants, used, bodies, layout),
        windows={n: w for n, w in layout.windows.items() if n in used},
        ranges=ranges,
        data=data,
        guards=_guards(cut),
        host_bodies=bodies,
        reasons=tuple(str(no) for refused in refusals.values() for no in refused),
        refusals=refusals,
    )


def _used_constants(constants: Mapping, used: set[str], bodies: dict[str, bytes], layout: Layout) -> dict:  # type: ignore[type-arg]
    """Constants that device Regions and plugins read (islands carry their own copy)."""
    carry = {name for name, body in bodies.items() if not is_record(body)}
    read = {n for region in layout.regions if region.name not in carry for n in region.inputs}
    read |= {window.parent for window in layout.windows.values()}
    return {name: array for name, array in constants.items() if name in read & used}
