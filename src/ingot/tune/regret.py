"""How far a build without a GPU is from one that measured: by the times that the measuring one has recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.kernels.api import Tactic, Target
from ingot.tune.candidates import candidates
from ingot.tune.database import Database, Key
from ingot.tune.job import Job


@dataclass(frozen=True)
class Layer:
    """One distinct Region, decided without measuring."""

    label: str
    count: int
    """How often the network has it."""
    variant: str
    recorded: bool
    """Whether a database decided, and not the cost model."""
    micros: float | None
    """The variant's measured time; None where it was never measured."""
    best: float
    """The time of the fastest measured variant."""
    fastest: str
    """That variant."""

    @property
    def ratio(self) -> float | None:
        """Time over the fastest one's."""
        return None if self.micros is None else self.micros / self.best


@dataclass(frozen=True)
class Regret:
    """Sums over a network's layers, as often as it has them."""

    layers: tuple[Layer, ...]
    untimed: int
    """Distinct Regions of which no time is known: they are in no sum."""

    @property
    def best(self) -> float:
        """Microseconds with the fastest variant everywhere."""
        return sum(layer.best * layer.count for layer in self.layers if layer.micros is not None)

    @property
    def chosen(self) -> float:
        """Microseconds with the chosen variants; layers whose variant was never measured are left out of both sums."""
        return sum(layer.micros * layer.count for layer in self.layers if layer.micros is not None)

    @property
    def unknown(self) -> float:
        """Share of the fastest time in layers whose chosen variant was never measured."""
        total = sum(layer.best * layer.count for layer in self.layers)
        return 1 - self.best / total if total else 0.0


def regret(
    lowered: Lowered, target: Target, tactics: Sequence[Tactic], truth: Database, known: Database | None
) -> Regret:
    """What a build would choose from ``known`` (None: from the cost model alone), at the times in ``truth``."""
    bindings = lowered.bindings()
    work = [r for r in lowered.regions if r.kind not in (Kind.VIEW, Kind.HOST)]
    counts = Counter(region.signature for region in work)
    layers: list[Layer] = []
    untimed = 0
    for signature, region in sorted({r.signature: r for r in reversed(work)}.items()):
        key = Key.of(region, target, bindings, "", "")
        times, _ = truth.hints(key)
        found = candidates(region.canonical, target, bindings, tactics)
        times = {c.text: times[c.text] for c in found.offered if c.text in times}
        if not times:
            untimed += 1
            continue
        hints = known.hints(key)[0] if known is not None else {}
        job = Job(region.canonical, region.name, key, found, hints, truth.refusals(key))
        chosen = job.order(1 if known is None else 2)[0].text
        fastest = min(times, key=lambda text: (times[text], text))
        label = f"{region.kind.value} {region.name}"
        layers.append(
            Layer(label, counts[signature], chosen, chosen in hints, times.get(chosen), times[fastest], fastest)
        )
    return Regret(tuple(layers), untimed)
