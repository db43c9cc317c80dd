"""``ingot compare``: an engine against ONNX Runtime, Value by Value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ingot.cli import render
from ingot.cli.bench import ACCURACY, accuracy_row
from ingot.cli.build import Flags
from ingot.cli.files import write_text
from ingot.cli.subject import inputs_for, subject
from ingot.engine.file import EngineFile


@dataclass(frozen=True)
class CompareFlags:
    """What to compare, as it stands on the command line."""

    feeds: Path | None = None
    inner: bool = False
    tolerance: float | None = None
    simulate: bool = False
    json: str | None = None
    shapes: tuple[str, ...] = ()
    seed: int = 0


def compare(engine: Path, model: str, flags: CompareFlags) -> bool:
    """Prints the differences; false when one is beyond the tolerance."""
    from ingot.measure.compare import compare as measure
    from ingot.measure.inputs import plan_of
    from ingot.measure.tolerance import tolerance_of

    with subject(str(engine), Flags(shapes=flags.shapes), model) as found:
        file = EngineFile.read(engine)
        reference = found.reference()
        assert reference is not None
        feeds = inputs_for(file, found, flags.feeds, flags.seed)
        file = file.alone(plan_of(file.plans, feeds))
        made = measure(
            file,
            reference,
            feeds,
            inner=flags.inner,
            simulate=flags.simulate,
            tolerance=tolerance_of(file) if flags.tolerance is None else flags.tolerance,
        )
    if flags.json is not None:
        write_text(flags.json, msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    if flags.json != "-":
        screen = render.console()
        rows = [[row.layer, *accuracy_row(row.difference)] for row in made.rows]
        title = f"{engine} in the {made.where} against {model} in ONNX Runtime"
        screen.print(render.table(title, ["layer", *ACCURACY], rows, left=2))
        if made.unnamed:
            screen.print(f"{made.unnamed} values of the engine have no counterpart of that name in the model")
        first = made.first
        if first is None:
            screen.print(f"all within the tolerance of {made.tolerance:g} (relative)")
        else:
            screen.print(f"first beyond the tolerance of {made.tolerance:g}: {first.difference.name}", markup=False)
    return made.first is None
