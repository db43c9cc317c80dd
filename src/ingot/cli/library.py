"""``ingot library``: kernels compiled ahead of builds, in the cache that every build takes from."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from ingot import env
from ingot.cli import render
from ingot.cli.files import write_text
from ingot.cli.source import Source, open_source
from ingot.errors import IngotError, No
from ingot.options import BuildOptions, parse_shapes
from ingot.progress import Progress

if TYPE_CHECKING:
    from ingot.graph.region import Region
    from ingot.kernels.api import Target
    from ingot.tune.library import BuildReport, Planned


PER_LAYER = 3
"""Variants of each layer of the standard networks, unless another number is asked for."""


@dataclass(frozen=True)
class LibraryFlags:
    """For which models, GPUs and options."""

    archs: Sequence[str]
    models: Sequence[str] = ()
    """The standard networks if none."""
    batches: Sequence[int] = ()
    """Of the standard networks."""
    fp16: bool = True
    fp32: bool = True
    """Also, of the standard networks."""
    tf32: bool = False
    shapes: Sequence[str] = ()
    opt_level: int = 3
    jobs: int | None = None
    limit_s: float | None = None
    """For each architecture."""
    dry_run: bool = False
    per_layer: int | None = None
    """The likeliest so many of each layer; ``PER_LAYER`` of the standard networks' and all of models' if None."""
    everything: bool = False
    """All that builds would measure."""
    json: str | None = None

    @property
    def most(self) -> int | None:
        """Most variants of a layer; None for all."""
        if self.everything:
            return None
        return self.per_layer or (None if self.models else PER_LAYER)


def build(flags: LibraryFlags) -> None:
    """Compiles what builds of the models would measure; prints what there is then, for each architecture.

    With JSON on standard output nothing else is printed there.
    """
    from ingot.tune import library

    targets = _targets(flags)
    if flags.shapes and len(flags.models) != 1:
        raise IngotError("--shapes goes with one model", fix="name the model, or leave --shapes out")
    if flags.models and flags.batches:
        raise IngotError("--batch is for the standard networks", fix="give the model's inputs with --shapes")
    if flags.everything and flags.per_layer is not None:
        raise IngotError("--all and --per-layer contradict each other", fix="leave one of them out")
    records = []
    for target in targets:
        with render.build_progress() as progress:
            start = time.monotonic()
            parts = _models(flags, target) if flags.models else _standard(flags, target, progress)
            work = library.distinct(parts)
            record = _plan_record(work, target, len(parts), time.monotonic() - start)
            made = None
            if not flags.dry_run:
                made = library.build(work, target, jobs=flags.jobs, limit=flags.limit_s, progress=progress)
        if flags.json != "-":
            _tell(record, made)
        records.append(record | (_made_record(made) if made else {}))
    if flags.json is not None:
        write_text(flags.json, msgspec.json.format(msgspec.json.encode(records), indent=1) + b"\n")


def _plan_record(work: Sequence[Planned], target: Target, builds: int, seconds: float) -> dict[str, Any]:
    return {
        "target": target.name,
        "builds": builds,
        "layers": len({item.task.region.signature for item in work}),
        "asked": len(work),
        "asked_by_family": dict(sorted(Counter(item.family for item in work).items())),
        "plan_seconds": round(seconds, 1),
        "cores": os.cpu_count(),
    }


def _made_record(made: BuildReport) -> dict[str, Any]:
    told = asdict(made)
    return {
        **told,
        "failed": [render.shorten(reason, 200) for reason in made.failed],
        "present": made.present,
        "seconds": round(made.seconds, 1),
    }


def _targets(flags: LibraryFlags) -> list[Target]:
    from ingot.builder.targets import choose_target

    targets = [choose_target(arch, tf32=flags.tf32).target for arch in flags.archs]
    for arch, target in zip(flags.archs, targets, strict=True):
        if target is None:
            raise IngotError("the library holds kernels for GPUs", node=arch, fix="take sm_75 ... sm_120")
    return [target for target in targets if target is not None]


def _standard(flags: LibraryFlags, target: Target, progress: Progress) -> Sequence[Sequence[Planned]]:
    from ingot.zoo import standard

    wanted = standard.setups(batches=flags.batches or standard.BATCHES, fp32=flags.fp32 or not flags.fp16)
    if not flags.fp16:
        wanted = tuple(setup for setup in wanted if not setup.fp16)
    wanted = tuple(replace(setup, tf32=flags.tf32) for setup in wanted)
    jobs = flags.jobs or env.compile_jobs()
    return standard.plans(wanted, target, flags.opt_level, jobs, progress, flags.most)


def _models(flags: LibraryFlags, target: Target) -> Sequence[Sequence[Planned]]:
    from ingot.kernels.table import TACTICS
    from ingot.tune.database import recorded
    from ingot.tune.library import planned

    known = recorded(target)
    sources = [open_source(text) for text in flags.models]
    return [
        planned(
            regions(source, flags, target), target, TACTICS,
            level=flags.opt_level, known=known, per_layer=flags.most,
        )
        for source in sources
    ]  # fmt: skip


def _tell(record: dict[str, Any], made: BuildReport | None) -> None:
    """Prints the counts by family, and by tactic what was made."""
    target, screen = record["target"], render.console()
    families = [
        [family, str(count), *([str(made.families.get(family, 0))] if made else [])]
        for family, count in record["asked_by_family"].items()
    ]
    columns = ["family", "asked for", *(["there now"] if made else [])]
    screen.print(render.table(f"library for {target}", columns, families, left=1))
    asked = f"{record['asked']} variants of {record['layers']} layers of {record['builds']} builds"
    if made is None:
        print(f"{target}: {asked}, planned in {record['plan_seconds']:.1f} s")
        return
    rows = [[*tactic.split(" "), str(count)] for tactic, count in made.tactics.items()]
    screen.print(render.table("", ["kind", "tactic", "variants"], rows, left=2))
    print(
        f"{target}: {made.variants} of {asked} are there; {made.present} were before, {made.compiled} compiled in "
        f"{made.seconds:.1f} s by {made.jobs} processes; {made.codes} distinct machine codes, "
        f"{render.size(made.bytes)}, {render.size(made.stored)} on disk"
    )
    if made.left:
        print(f"  {made.left} variants left out by the time limit: the same command goes on with them")
    for failure in made.failed[:_FAILURES]:
        print(f"  failed: {render.shorten(failure, 200)}")
    if len(made.failed) > _FAILURES:
        print(f"  {len(made.failed) - _FAILURES} more failed")


_FAILURES = 20


def regions(source: Source, flags: LibraryFlags, target: Target) -> list[tuple[Region, dict[str, int]]]:
    """The Regions of a model as a build makes them, each with the optimum shape."""
    from ingot.builder.api import lower_model

    options = BuildOptions(
        fp16=flags.fp16, tf32=flags.tf32, shapes=source.build_shapes(parse_shapes(flags.shapes)),
        opt_level=flags.opt_level,
    )  # fmt: skip
    lowered = lower_model(source.model, target, options)
    if isinstance(lowered, No):
        raise IngotError(f"nothing of it runs on a GPU: {lowered.reason}", node=source.text)
    return [(region, lowered.bindings()) for region in lowered.regions]


def show(json: str | None) -> None:
    """What is compiled, by target, kind of layer and tactic."""
    from ingot.kernels import store
    from ingot.tune import library

    groups = library.contents()
    if json is not None:
        write_text(json, msgspec.json.format(msgspec.json.encode(groups), indent=1) + b"\n")
        return
    rows = [[g.target, g.kind, g.tactic, str(g.variants), str(g.codes), render.size(g.bytes)] for g in groups]
    screen = render.console()
    columns = ["target", "kind", "tactic", "variants", "codes", "size"]
    screen.print(render.table(str(store.folder()), columns, rows, left=3))
    total = sum(g.bytes for g in groups)
    screen.print(f"{sum(g.variants for g in groups)} variants, {render.size(total)}")


def prune(keep_mib: float) -> None:
    """Deletes the kernels used longest ago until ``keep_mib`` MiB are left."""
    from ingot.tune import library

    count, freed = library.prune(int(keep_mib * 2**20))
    print(f"{count} files deleted, {render.size(freed)} freed")
