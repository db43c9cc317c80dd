"""Commands in groups: ``ingot library ...`` and ``ingot zoo ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ingot.cli.flags import Json, OptionalValues, OptLevel, ShapeTexts, Tf32, TimingDb

library_app = typer.Typer(no_args_is_help=True, help="Kernels compiled ahead of builds.")
Batches = Annotated[
    list[int] | None, typer.Option("--batch", min=1, help="Of the standard networks: 1, 8 and 32. Repeatable.")
]
zoo_app = typer.Typer(no_args_is_help=True, help="Models that Ingot is tested with.")


@library_app.command("build", cls=OptionalValues)
def library_build(
    arch: Annotated[list[str], typer.Option("--arch", help="sm_75 ... sm_120. Repeatable.")],
    models: Annotated[
        list[str] | None, typer.Argument(help="Models; the zoo's if left out.", metavar="[MODEL]...")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16/--no-fp16", help="For builds with --fp16.")] = True,
    fp32: Annotated[
        bool, typer.Option("--fp32/--no-fp32", help="Of the standard networks also FP32, at the smallest batch.")
    ] = True,
    tf32: Tf32 = False,
    shapes: ShapeTexts = None,
    batch: Batches = None,
    opt_level: OptLevel = 3,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Compile processes; the cores if left out.")] = None,
    limit: Annotated[
        float | None, typer.Option("--limit-seconds", min=0, help="Begin nothing later, for each --arch.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be compiled.")] = False,
    per_layer: Annotated[
        int | None,
        typer.Option(
            "--per-layer", min=1, help="Only the likeliest so many of each layer; without it 3 of standard networks'."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that builds would measure.")] = False,
    json: Json = None,
) -> None:
    """Compile the kernels that builds of these models, or of the standard networks, would try."""
    from ingot.cli.library import LibraryFlags
    from ingot.cli.library import build as run_build

    run_build(
        LibraryFlags(
            tuple(arch), tuple(models or ()), tuple(batch or ()), fp16, fp32, tf32, tuple(shapes or ()), opt_level,
            jobs, limit, dry_run, per_layer, everything, json,
        )
    )  # fmt: skip


@library_app.command("record")
def library_record(
    names: Annotated[
        list[str] | None, typer.Argument(help="Architectures; the standard ones if left out.", metavar="[NAME]...")
    ] = None,
    batch: Batches = None,
    fp32: Annotated[bool, typer.Option("--fp32/--no-fp32", help="Also FP32, at the smallest batch.")] = False,
    opt_level: OptLevel = 3,
    timing_db: TimingDb = None,
    limit: Annotated[float | None, typer.Option("--limit-seconds", min=0, help="Begin no network later.")] = None,
    publish: Annotated[
        Path | None, typer.Option("--publish", help="Merge the fastest variants into this database.", dir_okay=False)
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Variants of each layer that are published.")] = 8,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only layers without a time in the database that Ingot ships.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Build the networks, with contests between whole engines.")
    ] = False,
) -> None:
    """Measure the layers of standard networks on this GPU, for builds without one."""
    from ingot.cli.record import RecordFlags, record

    flags = RecordFlags(
        tuple(names or ()), tuple(batch or ()), fp32, opt_level, timing_db, limit, publish, keep, missing, whole
    )
    if not record(flags):
        raise typer.Exit(1)


@library_app.command("list", cls=OptionalValues)
def library_list(json: Json = None) -> None:
    """Show what is compiled."""
    from ingot.cli.library import show

    show(json)


@library_app.command("prune")
def library_prune(
    keep: Annotated[float, typer.Option("--keep", min=0, help="MiB to keep, the ones used last.")] = 1024.0,
) -> None:
    """Delete the kernels used longest ago."""
    from ingot.cli.library import prune

    prune(keep)


@zoo_app.command("list")
def zoo_list() -> None:
    """Show the models."""
    from ingot.cli.zoo import list_models

    list_models()


@zoo_app.command("fetch")
def zoo_fetch(name: Annotated[str, typer.Argument(help="A name from the list.")]) -> None:
    """Download one and print its path."""
    from ingot.cli.zoo import fetch_model

    fetch_model(name)
