"""Variants that are equally fast alone, decided in the engine's own graph.

Alone, a kernel is timed between runs of itself. In the engine it overlaps with the end of another kernel and
with the start of the next, finds in the cache what those left there, and shares the device with
branches beside it: two variants that are within noise alone may differ there. So where the fastest variants
of a Region are close and the Region has weight in the sum, engines with either are built and timed in turns.
The result is kept in the timing database under the graph's digest: the next build of the same graph decides alike.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ingot.errors import No
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.kernels.api import Target
from ingot.progress import Progress
from ingot.tune.choice import Choice
from ingot.tune.database import Key, Verdict, target_key
from ingot.tune.job import Job
from ingot.tune.setting import Timing


@dataclass(frozen=True)
class Limits:
    """Which contests are held, and for how long."""

    margin: float
    """Variants up to this much slower alone take part, as a share of the fastest one's time."""
    share: float
    """Regions with less of the sum of all times are left as they are."""
    rivals: int
    """Most variants beside the fastest."""
    seconds: float
    """No contest starts later than this after the first."""


LIMITS = {3: Limits(0.03, 0.01, 1, 20.0), 4: Limits(0.05, 0.005, 2, 90.0), 5: Limits(0.08, 0.003, 3, 300.0)}
"""By optimisation level; below 3 nothing is measured, but what was decided before still holds."""
LEAST_GAIN = 0.001
"""A variant must make the engine faster by more than this share (and more than the noise) to be taken."""


@dataclass(frozen=True)
class Contest:
    """One distinct Region with variants to decide between, the fastest alone first."""

    signature: str
    texts: tuple[str, ...]
    alike: tuple[str, ...] = ()
    """Signatures of Regions that differ from it by scales alone: what is decided holds for them too."""

    @property
    def signatures(self) -> tuple[str, ...]:
        """Of all its Regions."""
        return self.signature, *self.alike


class Judge(Protocol):
    """Something that times whole engines: a device, or a test's pretence of one."""

    def compare(self, engines: Sequence[Sequence[Choice]]) -> list[Timing] | No:
        """Time of one run of the engine with each list of Choices, measured in turns; No if it cannot be."""
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


def contests(lowered: Lowered, jobs: Mapping[str, Job], chosen: Mapping[str, Choice], level: int) -> list[Contest]:
    """What deserves a contest, by weight in the sum; a function of the known times alone.

    None for a graph of a single Region, which was timed alone already, or with host steps, which hide the difference.
    """
    counts = Counter(r.signature for r in lowered.regions if r.signature in jobs)
    if counts.total() < 2 or any(region.kind is Kind.HOST for region in lowered.regions):
        return []
    limits = LIMITS[max(level, min(LIMITS))]
    like: dict[Key, list[str]] = {}
    for signature in sorted(counts):
        like.setdefault(jobs[signature].key, []).append(signature)
    weight = {key: sum(counts[s] * chosen[s].micros for s in group) for key, group in like.items()}
    least = limits.share * sum(weight.values())
    found: list[Contest] = []
    for key, (signature, *alike) in sorted(like.items(), key=lambda item: (-weight[item[0]], item[1])):
        texts = _close(jobs[signature], chosen[signature], limits)
        if len(texts) > 1 and weight[key] >= least:
            found.append(Contest(signature, texts, tuple(alike)))
    return found


def _close(job: Job, choice: Choice, limits: Limits) -> tuple[str, ...]:
    """The chosen variant and its rivals; the chosen one alone when its time is not a measured one."""
    if not choice.measured:
        return (choice.variant,)
    bound = choice.micros * (1 + limits.margin)
    offered = {c.text for c in job.candidates.offered} - job.refused.keys() - {choice.variant}
    near = sorted((t for t in offered if job.known.get(t, bound + 1) <= bound), key=lambda t: (job.known[t], t))
    return (choice.variant, *near[: limits.rivals])


def verdict_key(lowered: Lowered, held: Sequence[Contest], target: Target, device: str, compilers: str) -> Key:
    """The database key of a graph's decisions: its Regions in order, its shapes, and what was to decide."""
    regions = [(r.kind.value, r.signature, r.inputs, r.outputs) for r in lowered.regions]
    names: dict[str, int] = {}
    wired = [
        (k, s, [names.setdefault(n, len(names)) for n in i], [names.setdefault(n, len(names)) for n in o])
        for k, s, i, o in regions
    ]
    text = repr((wired, sorted(lowered.bindings().items()), [(c.signature, c.texts) for c in held]))
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Key(target_key(target), digest, "", device, compilers)


Rivals = Callable[[Contest], Mapping[str, Mapping[str, Choice]]]
"""A contest's variants by text, compiled for each of its Regions; those that do not compile are left out."""


def hold(
    lowered: Lowered,
    chosen: Mapping[str, Choice],
    held: Sequence[Contest],
    judge: Judge,
    rivals: Rivals,
    limits: Limits,
    *,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, dict[str, float]]:
    """Hold the contests one after another, each winner in place for the next.

    Returns, for each Region signature decided, microseconds of the whole engine by variant, the winner
    first. A contest that could not be timed, or for which no time was left, is not in it.
    """
    current, start = dict(chosen), clock()
    decided: dict[str, dict[str, float]] = {}
    for done, contest in enumerate(held):
        progress("whole", done, len(held))
        if clock() - start > limits.seconds:
            break
        options = rivals(contest)
        texts = [text for text in contest.texts if text in options]
        if len(texts) < 2:
            continue
        engines = [in_order(lowered, {**current, **options[text]}) for text in texts]
        timings = judge.compare(engines)
        if isinstance(timings, No):
            break  # the device is lost, or the engine too large: the next one would be too
        best = winner(timings)
        micros = {text: round(1e6 * t.seconds, 3) for text, t in zip(texts, timings, strict=True)}
        decided[contest.signature] = {texts[best]: micros[texts[best]]} | micros
        current |= options[texts[best]]
    progress("whole", len(held), len(held))
    return decided


def winner(timings: Sequence[Timing]) -> int:
    """The fastest; the first one, which is the fastest alone, unless another beats it by more than the noise."""
    best = min(range(len(timings)), key=lambda i: (timings[i].seconds, i))
    noise = max(LEAST_GAIN, timings[0].noise, timings[best].noise)
    return best if timings[best].seconds < timings[0].seconds * (1 - noise) else 0


def in_order(lowered: Lowered, chosen: Mapping[str, Choice]) -> list[Choice]:
    """One Choice per Region of ``lowered``, from Choices by signature."""
    return [
        Choice(r.kind.value, None, 0.0, False) if r.kind in (Kind.VIEW, Kind.HOST) else chosen[r.signature]
        for r in lowered.regions
    ]


def settled(choice: Choice, micros: Mapping[str, float]) -> Choice:
    """``choice``, the winner of a contest with these times, with a note that says so."""
    times = ", ".join(f"{text}: {time:.1f}" for text, time in micros.items())
    return replace(choice, notes=(*choice.notes, f"decided in the whole engine (µs of one run: {times})"))


def applied(verdict: Verdict, contest: Contest) -> dict[str, float]:
    """What ``verdict`` says of ``contest``, the winner first; empty when it says nothing."""
    micros = verdict.decided.get(contest.signature, {})
    return dict(micros) if set(micros) <= set(contest.texts) else {}
