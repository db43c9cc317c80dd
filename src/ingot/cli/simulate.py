"""``ingot simulate``: an engine's plan proved on the host."""

from __future__ import annotations

import time
from pathlib import Path

from ingot.cli import render
from ingot.cli.bench import ACCURACY, accuracy_row
from ingot.cli.build import Flags
from ingot.cli.subject import inputs_for, subject
from ingot.engine.file import EngineFile


def simulate(
    engine: Path,
    model: str | None,
    feeds: Path | None,
    orders: int,
    tolerance: float | None,
    shapes: tuple[str, ...],
    seed: int,
) -> bool:
    """Runs the plan in ``orders`` random orders; with ``model`` compares the outputs, false when they differ.

    Raises IngotError for a race, a stale read or overlapping memory.
    """
    from ingot.measure.accuracy import differences
    from ingot.measure.inputs import plan_of
    from ingot.measure.tolerance import tolerance_of
    from ingot.simulate.simulator import Simulator

    with subject(str(engine), Flags(shapes=shapes), model) as found:
        file = EngineFile.read(engine)
        arrays = inputs_for(file, found, feeds, seed)
        file = file.alone(plan_of(file.plans, arrays))
        simulator, start = Simulator(file), time.perf_counter()
        for order in range(orders):
            made = simulator.run(arrays, seed=seed + order)
        reference = found.reference()
        wanted = reference.run(arrays, list(made)) if reference is not None else None
    print(
        f"{engine}: {len(file.plan.steps)} steps in {orders} {'order' if orders == 1 else 'orders'}, no race, no stale "
        f"read, no overlap ({time.perf_counter() - start:.1f} s)"
    )
    if wanted is None:
        return True
    limit = tolerance_of(file) if tolerance is None else tolerance
    rows = differences(wanted, made)
    screen = render.console()
    screen.print(render.table("against ONNX Runtime, the original model", ACCURACY, [accuracy_row(r) for r in rows]))
    right = all(row.within(limit) for row in rows)
    screen.print(f"{'within' if right else 'BEYOND'} the tolerance of {limit:g}")
    return right
