"""Where the time of an engine goes: whole runs, every step alone and inside the graph, and hardware counters.

    python benchmarks/account.py --json benchmarks/results/h200/account/resnet50-b1.json --into docs/performance.md
    python benchmarks/account.py --model zoo:bert_base --shapes input_ids=1x128 --shapes attention_mask=1x128
    python benchmarks/account.py --results benchmarks/results/h200/account/resnet50-b1.json --into docs/performance.md

On a GPU. MODEL is what ``ingot bench`` takes; models are built in FP16 (``--fp32`` for not). The counters come from one
run in a process of its own under NVIDIA's ``ncu``, which takes apart the CUDA graph and runs each kernel several times;
where it is missing or may not read counters the account is made without them, and says why. ``--into FILE`` puts the
tables between ``<!-- account NAME -->`` and ``<!-- /account NAME -->``. ``--results`` makes them of an earlier run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import account_chain
import account_ncu
import account_times
import msgspec
import numpy as np
from account_table import Account, Step, label, markdown
from table import inserted

from ingot.cli.build import Flags
from ingot.cli.subject import Subject, inputs_for, subject
from ingot.device.device import Device
from ingot.engine.describe import describe
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.dims import Bindings, evaluate_shape
from ingot.measure.accuracy import differences
from ingot.measure.bench import target_of
from ingot.measure.environment import environment
from ingot.measure.roofline import layer_seconds
from ingot.measure.tolerance import tolerance_of
from ingot.plan.spec import Plan
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import load
from ingot.runtime.profile import StepTime, profile
from ingot.runtime.shapes import solve

Feeds = Mapping[str, Any]
_DEFAULT = "zoo:resnet50"
_DEFAULT_SHAPE, _DEFAULT_NAME = "input=1x3x224x224", "resnet50-b1"
_INSIDE_S = 3.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default=_DEFAULT, help="an engine, an ONNX file or zoo:NAME")
    parser.add_argument("--shapes", action="append", default=[], help="NAME=SHAPE of an input")
    parser.add_argument("--name", help="of the account; the model's if left out")
    parser.add_argument("--opt-level", type=int, default=2)
    parser.add_argument("--fp32", action="store_true", help="build in FP32")
    parser.add_argument("--runs", type=int, default=10_000, help="runs that are timed from the host")
    parser.add_argument("--seconds", type=float, default=6.0, help="the most that they may take; and again with events")
    parser.add_argument("--no-ncu", action="store_true", help="without hardware counters")
    parser.add_argument("--ncu-seconds", type=float, default=120.0, help="the most that ncu may take")
    parser.add_argument("--cache", choices=("none", "all"), default="none", help="what ncu empties before each pass")
    parser.add_argument("--raw", type=Path, help="where ncu's own table is kept")
    parser.add_argument("--json", type=Path, help="where the account goes")
    parser.add_argument("--results", type=Path, help="JSON of an earlier run to make the tables of, without running")
    parser.add_argument(
        "--into", type=Path, help="a file with the marks <!-- account NAME --> and <!-- /account NAME -->"
    )
    arguments = parser.parse_args()
    try:
        account = _read(arguments.results) if arguments.results else _made(arguments)
    except IngotError as error:
        sys.exit(f"error: {error}")
    text = markdown(account)
    if arguments.into:
        page = inserted(arguments.into.read_text(), text, str(arguments.into), f"account {account.name}")
        arguments.into.write_text(page)
    else:
        print(text)


def _read(path: Path) -> Account:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Account)
    except (OSError, msgspec.MsgspecError) as error:
        raise IngotError(f"this is no account: {error}", node=str(path)) from None


def _made(arguments: argparse.Namespace) -> Account:
    if arguments.model == _DEFAULT and not arguments.shapes:
        arguments.shapes, arguments.name = [_DEFAULT_SHAPE], arguments.name or _DEFAULT_NAME
    arguments.name = arguments.name or Path(arguments.model.removeprefix("zoo:")).stem
    flags = Flags(fp16=not arguments.fp32, shapes=tuple(arguments.shapes), opt_level=arguments.opt_level)
    with subject(arguments.model, flags) as found:
        print(f"built in {found.seconds:.1f} s", file=sys.stderr, flush=True)
        account = measured(found, arguments)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(account), indent=1) + b"\n")
    if account.uncounted:
        print(f"no counters: {account.uncounted}", file=sys.stderr)
    return account


def measured(found: Subject, arguments: argparse.Namespace) -> Account:
    """The account of an engine. Raises IngotError where it does not run as one graph on a GPU."""
    file = EngineFile.read(found.path)
    feeds = inputs_for(file, found, None, 0)
    context = load(found.path).context()
    if not isinstance(context, DeviceContext):
        raise IngotError("only an engine for a GPU, with one profile, has an account", node=found.text)
    relative = _error(found, context, feeds)
    say = _Clock()
    whole = account_times.whole(file, context, feeds, arguments.runs, arguments.seconds)
    say("whole runs")
    alone = profile(context, feeds)
    say("steps alone")
    inside = account_times.inside(context, _INSIDE_S)
    say("steps inside")
    empty = _nothing(file)
    say("empty kernels")
    at = solve(file.plan, {name: value.shape for name, value in feeds.items()})
    kernels, uncounted = _counters(file, at, feeds, alone, arguments)
    say("counters")
    return Account(
        name=arguments.name,
        model=found.text,
        options=dict(sorted(file.provenance.items())),
        inputs={name: list(value.shape) for name, value in feeds.items()},
        environment=environment(Device.open().info),
        relative=relative,
        tolerance=tolerance_of(file),
        whole=whole,
        steps=_steps(file, at, alone, inside.steps, kernels),
        cache=arguments.cache,
        uncounted=uncounted,
        inside_error=inside.error,
        nothing=empty,
    )


def _nothing(file: EngineFile) -> account_chain.Nothing | None:
    """With as much shared memory as the engine's largest block has."""
    target = target_of(file.plan.target, Device.open().info, tf32=False)
    if target is None or not target.pdl:
        return None
    return account_chain.nothing(target, max((step.shared for step in file.plan.steps), default=0))


class _Clock:
    """Says on standard error what a part took."""

    def __init__(self) -> None:
        self._before = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        print(f"{part}: {now - self._before:.1f} s", file=sys.stderr, flush=True)
        self._before = now


def _error(found: Subject, context: DeviceContext, feeds: Feeds) -> float:
    """The largest relative error of an output. Raises IngotError where the model is not known, or a result unusable."""
    reference = found.reference()
    if reference is None:
        raise IngotError("without its model an engine's results cannot be checked", fix="give the model instead")
    rows = differences(reference.run(feeds), context.run(feeds))
    problem = next((f"{row.name}: {row.problem}" for row in rows if row.problem), "")
    if problem:
        raise IngotError(problem)
    return max(row.relative for row in rows)


def _counters(
    file: EngineFile, at: Bindings, feeds: Feeds, alone: Sequence[StepTime], arguments: argparse.Namespace
) -> tuple[dict[int, account_ncu.Kernel], str]:
    """Counters by step, and why there are none."""
    if arguments.no_ncu:
        return {}, "not asked for"
    with tempfile.TemporaryDirectory(prefix="ingot-account-") as folder:
        engine, values = Path(folder) / "model.ingot", Path(folder) / "feeds.npz"
        (account_times.without_programmatic(file) or file).write(engine)  # kernels run one after another anyway
        np.savez(values, **feeds)
        log = arguments.raw or Path(folder) / "ncu.csv"
        try:
            kernels = account_ncu.counted(engine, values, log, arguments.cache, arguments.ncu_seconds)
            return account_ncu.joined(kernels, launches(file.plan, at, alone)), ""
        except IngotError as error:
            return {}, str(error)


def launches(plan: Plan, at: Bindings, ran: Sequence[StepTime]) -> list[account_ncu.Launch]:
    """The kernels that run at ``at``, in order."""
    found = []
    for index in (one.step for one in ran if one.ran):
        step = plan.steps[index]
        if step.kind == "kernel":
            grid = evaluate_shape(tuple(step.grid), at)
            found.append(account_ncu.Launch(index, step.entry, grid, step.block))
    return found


def _steps(
    file: EngineFile,
    at: Bindings,
    alone: Sequence[StepTime],
    inside: Mapping[int, float],
    kernels: Mapping[int, account_ncu.Kernel],
) -> list[Step]:
    plan = file.plan
    target = target_of(plan.target, Device.open().info, tf32=bool(file.provenance.get("tf32")))
    floors = {}
    for layer in describe(file, at).layers:
        if layer.steps and target is not None:
            floors[min(layer.steps)] = 1e6 * layer_seconds(layer, target)
    rows = []
    for measured in (one for one in alone if one.ran):
        step = plan.steps[measured.step]
        region = plan.regions[step.region]
        counted = kernels.get(measured.step)
        rows.append(
            Step(
                step=measured.step,
                layer=label(plan, region, at),
                tactic=region.tactic,
                kernel=step.entry,
                grid=list(evaluate_shape(tuple(step.grid), at)),
                alone=measured.micros,
                inside=inside.get(measured.step),
                floor=floors.get(measured.step, 0.0),
                counters=counted.counters if counted else {},
                stalls=counted.stalls if counted else {},
            )
        )
    return rows


if __name__ == "__main__":
    main()
