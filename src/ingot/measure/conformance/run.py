"""Runs cases of the suite through the whole path, each in a helper process that may crash or hang without harm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import onnx

from ingot.builder.api import build_engine, build_hollow
from ingot.builder.hosting import EVALUATOR
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.importer.walk import nodes_within
from ingot.measure.conformance.cases import Case, Value, load_case
from ingot.measure.conformance.parameters import with_constants
from ingot.measure.conformance.verdict import NEAR, Kind, Outcome, distance, share, unlike
from ingot.options import BuildOptions, Range, Shapes
from ingot.runtime.engine import Engine
from ingot.simulate.faults import PlanFault
from ingot.simulate.simulator import Simulator
from ingot.tune.worker import call_each

TIMEOUT = 120.0
"""Seconds for a case; the light networks take some."""
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_LONGEST = 240
Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def run_cases(
    names: Iterable[str],
    target: str,
    *,
    timeout: float = TIMEOUT,
    jobs: int = 1,
    progress: Callable[[Outcome], None] | None = None,
) -> Iterator[Outcome]:
    """The cases ``names`` on ``target``, in order: ``cpu``, ``cuda`` (the GPU that is there), or a GPU's name for
    the simulator. ``jobs`` helper processes share them.

    A case that crashes its process or takes more than ``timeout`` seconds is wrong.
    """
    work = [(name, target) for name in names]
    with closing(call_each("ingot.measure.conformance.run:run_case", work, jobs=jobs, timeout=timeout)) as answers:
        for (name, _), answer in zip(work, answers, strict=True):
            outcome = answer if isinstance(answer, Outcome) else Outcome(name, "wrong", str(answer))
            if progress is not None:
                progress(outcome)
            yield outcome


def run_case(name: str, target: str) -> Outcome:
    """One case in this process. Raises KeyError for one that does not exist."""
    case = load_case(name)
    kind, reason = _judged(case, target)
    fixed = with_constants(case) if kind == "island" else None
    as_constants = fixed is not None and _judged(fixed, target)[0] in ("pass", "near")
    return Outcome(name, kind, _short(reason), sorted(_ops(case.model)), as_constants)


def _judged(case: Case, target: str) -> tuple[Kind, str]:
    options = BuildOptions(target=target, opt_level=0, shapes=_shapes(case))
    try:
        simulated = target not in ("cpu", "cuda")
        engine = build_hollow(case.model, options) if simulated else build_engine(case.model, options)
        run = Simulator(engine).run if simulated else Engine(engine).context().run
        worst, problem = _compared(case, run)
    except PlanFault as fault:
        return "wrong", f"the plan: {fault}"
    except IngotError as error:
        return "refused", str(error)
    except Exception as error:  # what no part of Ingot foresaw is a finding, whatever its type
        return "wrong", f"{type(error).__name__}: {error}"
    if problem:
        return "wrong", problem
    if target != "cpu" and (islands := _islands(engine)):
        return "island", islands
    if worst > 1:
        return "near", f"{worst:.2g} times further off than allowed"
    if _is_random(case.model):
        return "pass", "random by definition: types and shapes compared"
    return "pass", "; ".join(reason for reason in engine.plan.reasons if EVALUATOR in reason)


def _compared(case: Case, run: Run) -> tuple[float, str]:
    """The worst of all data sets, and what makes it wrong."""
    names = [value.name for value in case.model.graph.output]
    worst = 0.0
    for feeds, wanted in case.data:
        made = run(feeds)
        outputs = [made[name] for name in names]
        if _is_random(case.model):
            problems = [unlike(np.asarray(a), np.asarray(b)) for a, b in zip(wanted, outputs, strict=True)]
            ratio, problem = 0.0, next((p for p in problems if p), "")
        else:
            ratio, problem = distance(wanted, outputs, case.rtol, case.atol)
        if not problem and ratio > NEAR:
            problem = _far(ratio, share(wanted, outputs))
        if problem:
            return ratio, problem
        worst = max(worst, ratio)
    return worst, ""


def _far(ratio: float, part: float) -> str:
    if not np.isfinite(ratio) and not np.isfinite(part):
        return "infinite where it should be a number, or the other way round"
    return f"{ratio:.3g} times further off than allowed, by {part:.1g} of the largest number"


def _shapes(case: Case) -> Shapes:
    """Sizes from the data for inputs that declare none."""
    found = []
    for value in case.model.graph.input:
        arrays = [feeds.get(value.name) for feeds, _ in case.data]
        if _is_open(value) and all(isinstance(array, np.ndarray) for array in arrays):
            found.append((value.name, _ranges(arrays)))
    return tuple(found)


def _is_open(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        return False
    return not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim)


def _ranges(arrays: list[Value]) -> tuple[Range, ...]:
    shapes = [array.shape for array in arrays]
    return tuple(Range(min(sizes), sizes[0], max(sizes)) for sizes in zip(*shapes, strict=True))


def _islands(engine: EngineFile) -> str:
    """Which ops stay on the host, and why; empty where none does."""
    plan = engine.plan
    if plan.target == "cpu":
        return next((reason for reason in plan.reasons if reason.startswith("the whole model")), "the whole model")
    hosts = [region for region in plan.regions if region.kind == "host"]
    if not hosts:
        return ""
    ops = ", ".join(sorted({op for region in hosts for op in region.ops}))
    evaluated = [reason for reason in plan.reasons if EVALUATOR in reason]
    return f"{ops}: " + "; ".join(dict.fromkeys([*evaluated, *(region.tactic for region in hosts)]))


def _ops(model: onnx.ModelProto) -> set[str]:
    known = {(node.domain, node.op_type) for node in nodes_within(model.graph)}
    return {op if domain in ("", "ai.onnx") else f"{domain}.{op}" for domain, op in known}


def _is_random(model: onnx.ModelProto) -> bool:
    """Whether its numbers differ from run to run, or from library to library."""
    return bool(_ops(model) & _RANDOM) or _drops(model)


def _drops(model: onnx.ModelProto) -> bool:
    """A Dropout in training mode: it has its third input."""
    return any(
        node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] for node in nodes_within(model.graph)
    )


def _short(reason: str) -> str:
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", " ".join(reason.split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
