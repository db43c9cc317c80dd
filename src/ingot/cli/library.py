"""``ingot library``: kernels compiled ahead of builds, in the cache that every build takes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ingot.cli import render
from ingot.cli.files import write_text
from ingot.cli.source import Source, open_source
from ingot.errors import IngotError, No
from ingot.options import BuildOptions, parse_shapes

if TYPE_CHECKING:
    from ingot.graph.region import Region
    from ingot.kernels.api import Target

_USUAL = ("resnet50", "mobilenet_v2", "efficientnet_b0", "bert_base", "vit_b16")
"""Whose kernels are built when no model is named."""


@dataclass(frozen=True)
class LibraryFlags:
    """For which models, GPUs and options."""

    archs: Sequence[str]
    models: Sequence[str] = ()
    fp16: bool = True
    tf32: bool = False
    shapes: Sequence[str] = ()
    opt_level: int = 3
    jobs: int | None = None


def build(flags: LibraryFlags) -> None:
    """Compiles what builds of the models would measure; prints a line for each architecture."""
    from ingot.builder.targets import choose_target
    from ingot.kernels.table import TACTICS
    from ingot.tune import library

    targets = [choose_target(arch, tf32=flags.tf32).target for arch in flags.archs]
    for arch, target in zip(flags.archs, targets, strict=True):
        if target is None:
            raise IngotError("the library holds kernels for GPUs", node=arch, fix="take sm_80 ... sm_120")
    if flags.shapes and len(flags.models) != 1:
        raise IngotError("--shapes goes with one model", fix="name the model, or leave --shapes out")
    sources = [open_source(text) for text in flags.models or [f"zoo:{name}" for name in _USUAL]]
    for target in filter(None, targets):
        with render.build_progress() as progress:
            work = [pair for source in sources for pair in regions(source, flags, target)]
            made = library.build(work, target, TACTICS, level=flags.opt_level, jobs=flags.jobs, progress=progress)
        print(
            f"{target.name}: {made.variants} variants for {len(work)} layers, {made.compiled} compiled now in "
            f"{made.seconds:.1f} s, {render.size(made.bytes)}"
        )
        for failure in made.failed:
            print(f"  failed: {render.shorten(failure, 200)}")


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
    from ingot.tune import library

    groups = library.contents()
    if json is not None:
        write_text(json, msgspec.json.format(msgspec.json.encode(groups), indent=1) + b"\n")
        return
    rows = [[g.target, g.kind, g.tactic, str(g.variants), render.size(g.bytes)] for g in groups]
    screen = render.console()
    screen.print(render.table(str(library.folder()), ["target", "kind", "tactic", "variants", "size"], rows, left=3))
    total = sum(g.bytes for g in groups)
    screen.print(f"{sum(g.variants for g in groups)} variants, {render.size(total)}")


def prune(keep_mib: float) -> None:
    """Deletes the kernels used longest ago until ``keep_mib`` MiB are left."""
    from ingot.tune import library

    count, freed = library.prune(int(keep_mib * 2**20))
    print(f"{count} files deleted, {render.size(freed)} freed")
