"""Commands in groups: ``ingot library ...`` and ``ingot zoo ...``."""

from __future__ import annotations

from typing import Annotated

import typer

from ingot.cli.flags import Json, OptionalValues, OptLevel, ShapeTexts, Tf32

library_app = typer.Typer(no_args_is_help=True, help="Kernels compiled ahead of builds.")
zoo_app = typer.Typer(no_args_is_help=True, help="Models that Ingot is tested with.")


@library_app.command("build")
def library_build(
    arch: Annotated[list[str], typer.Option("--arch", help="sm_80 ... sm_120. Repeatable.")],
    models: Annotated[
        list[str] | None, typer.Argument(help="Models; the zoo's if left out.", metavar="[MODEL]...")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16/--no-fp16", help="For builds with --fp16.")] = True,
    tf32: Tf32 = False,
    shapes: ShapeTexts = None,
    opt_level: OptLevel = 3,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Compile processes; the cores if left out.")] = None,
) -> None:
    """Compile the kernels that builds of these models would try."""
    from ingot.cli.library import LibraryFlags
    from ingot.cli.library import build as run_build

    run_build(LibraryFlags(tuple(arch), tuple(models or ()), fp16, tf32, tuple(shapes or ()), opt_level, jobs))


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
