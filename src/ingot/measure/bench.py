"""One row of a benchmark: an engine measured, checked, and set beside its peers."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ingot.builder.targets import TARGETS, present
from ingot.device.device import Device, DeviceInfo
from ingot.engine.describe import Description, describe
from ingot.errors import IngotError
from ingot.kernels.api import Target
from ingot.measure.accuracy import Difference, differences
from ingot.measure.environment import environment
from ingot.measure.figures import Budget, EngineFacts, Figures, PeerFigures, Record
from ingot.measure.host import host_flops, model_flops
from ingot.measure.inputs import Maker, check_feeds, declared, plan_for
from ingot.measure.latency import Latency
from ingot.measure.peers import half, onnxruntime, torch
from ingot.measure.peers.offer import Offer, Peer
from ingot.measure.reference import Reference
from ingot.measure.roofline import roofline_seconds
from ingot.measure.timing import interleaved, load_time, measure_device, measure_host, repeated
from ingot.measure.tolerance import tolerance_of
from ingot.options import Shapes
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine, load
from ingot.runtime.feeds import shape_of
from ingot.runtime.shapes import solve

Array = np.ndarray[Any, Any]
Say = Callable[[str], None]
PEERS = ("onnxruntime", "torch", "torch.compile", "fp16")
"""``fp16`` is the same model, built by this program in FP16."""
_PEER_SHARE = 0.5
"""Time spent on a peer, as a share of the time spent on the engine."""
_PEER_RUNS = 3
"""Runs of a peer at least, however slow it is."""


@dataclass(frozen=True)
class Case:
    """What to measure, and against what."""

    name: str
    model: str
    """How the user called the model."""
    path: Path
    """Of the engine."""
    feeds: Maker
    reference: Reference | None = None
    """The original model; without it the engine is checked against its own bodies."""
    architecture: str = ""
    """Name of the standard architecture that the model is, for PyTorch; empty for others."""
    shapes: Shapes = ()
    """Shapes to run at, where they are not the optimum ones."""
    seed: int = 0
    half: Callable[[], Path] | None = None
    """Builds the model in FP16; gives the engine's path."""


def bench(case: Case, budget: Budget, against: Sequence[str] = (), say: Say = lambda text: None) -> Record:
    """Measures ``case.path``; ``say`` is told each part before it starts.

    A peer that fails is kept with its error. Raises IngotError when the engine itself fails.
    """
    unknown = sorted(set(against) - set(PEERS))
    if unknown:
        raise IngotError(f"there is no peer called {', '.join(unknown)}", fix=f"take of: {', '.join(PEERS)}")
    say("load")
    engine = load(case.path)
    name = plan_for(engine.file.plans, case.shapes).name
    engine = engine.variants[name]
    info = None if engine.target == "cpu" else Device.open().info
    inputs = declared(engine.plan, case.shapes)
    feeds = case.feeds(inputs, case.seed)
    check_feeds(engine.plan, feeds)
    bindings = solve(engine.plan, {name: shape_of(value) for name, value in feeds.items()})
    description = describe(engine.file, bindings)
    context, load_ms = load_time(lambda: load(case.path).variants[name].context(), feeds)
    say("reference")
    reference, wanted = _wanted(case, engine, feeds)
    found = differences(wanted, context.run(feeds))
    offers = _offers(case, against, feeds, gpu=info is not None)
    if isinstance(context, DeviceContext):
        say("measure")
        figures = measure_device(context, feeds, budget, load_ms)
        peers = [_peer(offer, wanted, budget, figures.run.median, say) for offer in offers]
    else:
        figures, peers = _in_turns(context, feeds, offers, wanted, budget, load_ms, say)
        figures = _with_arithmetic(figures, case, feeds)
    options = engine.file.provenance
    return Record(
        name=case.name,
        model=case.model,
        model_sha256=str(options.get("model_sha256", "")),
        options={key: options[key] for key in sorted(options) if key != "model_sha256"},
        inputs={name: (dtype, list(shape)) for name, (dtype, shape) in inputs.items()},
        environment=environment(info),
        engine=_facts(case.path, engine, description),
        figures=_with_roofline(figures, description, info, tf32=bool(options.get("tf32"))),
        outputs=found,
        reference=reference,
        tolerance=tolerance_of(engine.file),
        peers=peers,
    )


# -- correctness


def _wanted(case: Case, engine: Engine, feeds: Mapping[str, Array]) -> tuple[str, dict[str, Array]]:
    """What the outputs should be, and who says so."""
    from ingot.simulate.simulator import Simulator

    names, why = [output.name for output in engine.outputs], ""
    if case.reference is not None:
        try:
            return "ONNX Runtime CPU, the original model", case.reference.run(feeds, names)
        except IngotError as error:
            why = f" ({error.reason})"
    return f"ONNX Runtime CPU, the engine's own layers{why}", Simulator(engine.file).run(feeds)


# -- peers


def _offers(case: Case, against: Sequence[str], feeds: Mapping[str, Array], *, gpu: bool) -> list[Offer]:
    found: list[Offer] = []
    for name in against:
        if name == "torch":
            found += torch.offers(_for_torch(case), feeds, gpu=gpu)
        elif name == "torch.compile":
            found += torch.compiled(_for_torch(case), feeds, gpu=gpu)
        elif name == "fp16":
            if case.half is not None:
                found.append(half.offer(case.half, feeds))
            else:
                found.append(_missing(name, "it needs the original model: give --model"))
        elif case.reference is None:
            found.append(_missing(name, "it needs the original model: give --model"))
        else:
            found += onnxruntime.offers(case.reference, feeds, gpu=gpu)
    return found


def _for_torch(case: Case) -> torch.Subject:
    if case.architecture or case.reference is None:
        return torch.Subject(case.architecture)
    names = tuple(value.name for value in case.reference.session.get_outputs())
    return torch.Subject(content=case.reference.content, outputs=names)


def _missing(name: str, reason: str) -> Offer:
    def make() -> Peer:
        raise IngotError(reason)

    return Offer(name, "", make)


def _peer(offer: Offer, wanted: Mapping[str, Array], budget: Budget, ours: float, say: Say) -> PeerFigures:
    """One peer alone: its memory is given back before the next comes."""
    say(f"{offer.name} {offer.variant}")
    limits = Budget(budget.warmup, _PEER_SHARE * budget.seconds, min(budget.iterations, _PEER_RUNS))
    try:
        peer = offer.make()
        times = repeated(peer.run, limits)
        outputs = _checked(peer, wanted)
        note = peer.note
    except Exception as error:  # a peer's failure is a result, not ours
        return _failed(offer, error)
    finally:
        peer = None  # type: ignore[assignment]
        _give_back()
    latency = Latency.of(times)
    return PeerFigures(offer.name, offer.variant, latency, latency.median / ours, outputs, note)


def _in_turns(
    context: Context,
    feeds: Mapping[str, Array],
    offers: Sequence[Offer],
    wanted: Mapping[str, Array],
    budget: Budget,
    load_ms: float,
    say: Say,
) -> tuple[Figures, list[PeerFigures]]:
    """On the CPU the engine and its peers take turns: its speed drifts more than they differ."""
    ready: dict[str, tuple[Offer, Peer]] = {}
    failed: list[PeerFigures] = []
    for offer in offers:
        try:
            ready[f"{offer.name} {offer.variant}"] = offer, offer.make()
        except Exception as error:
            failed.append(_failed(offer, error))
    say("measure")
    runs: dict[str, Callable[[], object]] = {"": lambda: context.run(feeds)}
    runs.update((label, peer.run) for label, (_, peer) in ready.items())
    times = interleaved(runs, budget)
    figures = measure_host(times[""], load_ms)
    peers = []
    for label, (offer, peer) in ready.items():
        latency = Latency.of(times[label])
        ratio = latency.median / figures.run.median
        peers.append(PeerFigures(offer.name, offer.variant, latency, ratio, _checked(peer, wanted), peer.note))
    return figures, peers + failed


def _checked(peer: Peer, wanted: Mapping[str, Array]) -> list[Difference]:
    if peer.outputs is None:
        return []
    made = peer.outputs()
    return differences(wanted, {name: made[name] for name in wanted if name in made})


def _failed(offer: Offer, error: Exception) -> PeerFigures:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return PeerFigures(offer.name, offer.variant, error=text)


def _give_back() -> None:
    gc.collect()
    library = sys.modules.get("torch")
    if library is not None and library.cuda.is_available():
        library.cuda.empty_cache()


# -- facts


def target_of(name: str, info: DeviceInfo | None, *, tf32: bool) -> Target | None:
    """The hardware's limits: of the GPU that is there, else of the usual one of that architecture; None for the CPU."""
    if name == "cpu":
        return None
    found = present(info) if info else next((t for t in TARGETS if t.name == name), None)
    return replace(found, tf32=tf32) if found else None


def _with_roofline(figures: Figures, description: Description, info: DeviceInfo | None, *, tf32: bool) -> Figures:
    target = target_of(description.summary.target, info, tf32=tf32)
    if target is None:
        return figures
    return msgspec.structs.replace(figures, roofline_ms=1e3 * roofline_seconds(description, target))


def _with_arithmetic(figures: Figures, case: Case, feeds: Mapping[str, Array]) -> Figures:
    """On the CPU the least time is that of the model's operations; unknown where they cannot be counted."""
    if case.reference is None:
        return figures
    operations = model_flops(case.reference, feeds)
    if not operations:
        return figures
    return msgspec.structs.replace(figures, roofline_ms=1e3 * operations / host_flops())


def _facts(path: Path, engine: Engine, description: Description) -> EngineFacts:
    summary = description.summary
    backends = sorted({step.backend for step in engine.plan.steps if step.kind == "host"})
    return EngineFacts(
        target=summary.target,
        layers=summary.layers,
        kernels=summary.kernels,
        islands=summary.islands,
        backend=", ".join(backends),
        file_bytes=path.stat().st_size,
        weights_bytes=summary.weights_bytes,
        arena_bytes=summary.arena_bytes,
        code_bytes=summary.code_bytes,
        reasons=description.reasons,
    )
