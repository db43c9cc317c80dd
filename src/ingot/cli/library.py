"""``ingot library``: kernels compiled ahead of builds, in the cache that every build takes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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


def build(flags: LibraryFlags) -> None:
    """Compiles what builds of the models would measure; prints what there is then, for each architecture."""
    from ingot.tune import library

    targets = _targets(flags)
    if flags.shapes and len(flags.models) != 1:
        raise IngotError("--shapes goes with one model", fix="name the model, or leave --shapes out")
    if flags.models and flags.batches:
        raise IngotError("--batch is for the standard networks", fix="give the model's inputs with --shapes")
    for target in targets:
        with render.build_progress() as progress:
            parts = _models(flags, target) if flags.models else _standard(flags, target, progress)
            work = library.distinct(parts)
            if flags.dry_run:
                print(f"{target.name}: {len(work)} variants of {_layers(work)} layers of {len(parts)} builds")
                continue
            made = library.build(work, target, jobs=flags.jobs, limit=flags.limit_s, progress=progress)
        _tell(made, target.name, _layers(work), len(parts))


def _targets(flags: LibraryFlags) -> list[Target]:
    from ingot.builder.targets import choose_target

    targets = [choose_target(arch, tf32=flags.tf32).target for arch in flags.archs]
    for arch, target in zip(flags.archs, targets, strict=True):
        if target is None:
            raise IngotError("the library holds kernels for GPUs", node=arch, fix="take sm_75 ... sm_120")
    return [target for target in targets if target is not None]


def _layers(work: Sequence[Planned]) -> int:
    return len({item.task.region.signature for item in work})


def _standard(flags: LibraryFlags, target: Target, progress: Progress) -> Sequence[Sequence[Planned]]:
    from ingot.zoo import standard

    wanted = standard.setups(batches=flags.batches or standard.BATCHES, fp32=flags.fp32 or not flags.fp16)
    if not flags.fp16:
        wanted = tuple(setup for setup in wanted if not setup.fp16)
    wanted = tuple(replace(setup, tf32=flags.tf32) for setup in wanted)
    return standard.plans(wanted, target, flags.opt_level, flags.jobs or env.compile_jobs(), progress)


def _models(flags: LibraryFlags, target: Target) -> Sequence[Sequence[Planned]]:
    from ingot.kernels.table import TACTICS
    from ingot.tune import library

    sources = [open_source(text) for text in flags.models]
    return [
        library.planned(regions(source, flags, target), target, TACTICS, level=flags.opt_level) for source in sources
    ]


def _tell(made: BuildReport, target: str, layers: int, builds: int) -> None:
    rows = [[*family.split(" "), str(count)] for family, count in made.families]
    render.console().print(render.table(f"library for {target}", ["kind", "tactic", "variants"], rows, left=2))
    print(
        f"{target}: {made.variants} variants for {layers} layers of {builds} builds, {made.compiled} compiled now in "
        f"{made.seconds:.1f} s; {made.codes} distinct machine codes, {render.size(made.bytes)}, "
        f"{render.size(made.stored)} on disk"
    )
    if made.left:
        print(f"  {made.left} variants left out by the time limit")
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
