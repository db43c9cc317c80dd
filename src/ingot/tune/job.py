"""One distinct Region on its way to a decision."""

from __future__ import annotations

from dataclasses import dataclass, field

from ingot.errors import IngotError, No
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program
from ingot.tune.candidates import Candidate, Candidates, best_known
from ingot.tune.choice import Choice
from ingot.tune.compile_pool import Task
from ingot.tune.database import Entry, Key
from ingot.tune.setting import Timing
from ingot.tune.worker import TRY_AGAIN

_NOTED_REFUSALS = 4


class NoKernel(IngotError):
    """A Region that no variant of any tactic can run."""

    signature: str = ""
    """The Region's; empty where cutting it into smaller ones cannot help."""


@dataclass
class Job:
    """What is known and tried for one Region. ``region`` is canonical: equal Regions get equal code."""

    region: Region
    name: str
    """Name of the first Region that looks like this, for messages."""
    key: Key
    candidates: Candidates
    known: dict[str, float]
    """Microseconds by variant text, from the databases and from measuring."""
    refused: dict[str, str]
    """Variants that failed, with reasons."""
    recorded_on: str = ""
    """Device of the known times when it is not this one."""
    ages: tuple[int, ...] = ()
    """Bytes touched since each input was written: see ``reuse``."""
    measurable: bool = True
    notes: list[str] = field(default_factory=list)
    programs: dict[str, Program] = field(default_factory=dict)

    def order(self, level: int) -> list[Candidate]:
        """Candidates from the most to the least preferred, failed ones left out."""
        offered = self.candidates.offered if level == 0 else self.candidates.ranked
        if level >= 2:
            known = [c for c in offered if c.text in self.known]
            known.sort(key=lambda c: (self.known[c.text], c.text))
            offered = (*known, *(c for c in offered if c.text not in self.known))
        return [c for c in offered if c.text not in self.refused]

    def to_measure(self, level: int, measured: dict[str, float]) -> list[Candidate]:
        """The shortlist less what was measured or failed; more of the ranking when all of it failed."""
        shortlist = self.candidates.shortlist(level, best_known(self.known))
        if not any(c.text in measured for c in shortlist) and all(c.text in self.refused for c in shortlist):
            shortlist = tuple(c for c in self.candidates.ranked if c.text not in self.refused)[: max(len(shortlist), 1)]
        return [c for c in shortlist if c.text not in measured and c.text not in self.refused]

    def task(self, candidate: Candidate) -> Task:
        """The compilation of one candidate."""
        return Task(self.region, candidate.tactic, candidate.variant, candidate.seconds)

    def learn(self, results: dict[str, Timing | No]) -> Entry:
        """Take in measurements; returns what the database should remember of them."""
        micros = {text: 1e6 * r.seconds for text, r in results.items() if isinstance(r, Timing)}
        failed = {text: r for text, r in results.items() if isinstance(r, No)}
        self.refused |= {text: r.reason for text, r in failed.items()}
        lasting = {text: r.reason for text, r in failed.items() if r.fix != TRY_AGAIN}
        return Entry(self.key, self.region.kind.value, micros, lasting)

    def choice(self, candidate: Candidate, level: int) -> Choice:
        """The decision for ``candidate``, which has its Program."""
        micros = self.known.get(candidate.text) if level >= 2 else None
        predicted = round(1e6 * candidate.seconds, 3)
        notes = [*self.notes]
        if micros is not None:
            count = sum(c.text in self.known for c in self.candidates.offered)
            place = f" on {self.recorded_on}" if self.recorded_on else ""
            rank = "fastest" if candidate.text == self._fastest() else "among the fastest"
            notes.append(f"{rank} of {count} measured{place}, of {len(self.candidates.offered)} variants")
        else:
            notes.append(f"chosen by prediction among {len(self.candidates.offered)} variants")
        notes += [f"refused: {text}: {self.refused[text]}" for text in sorted(self.refused)[:_NOTED_REFUSALS]]
        if len(self.refused) > _NOTED_REFUSALS:
            notes.append(f"{len(self.refused) - _NOTED_REFUSALS} more variants refused")
        notes += [f"tactic refused: {refusal}" for refusal in self.candidates.refusals]
        time = predicted if micros is None else micros
        return Choice(candidate.text, self.programs[candidate.text], time, micros is not None, tuple(notes))

    def _fastest(self) -> str:
        known = {c.text for c in self.candidates.offered} & self.known.keys() - self.refused.keys()
        return min(known, key=lambda text: (self.known[text], text))

    def failure(self) -> NoKernel:
        """The error when nothing is left to try."""
        reasons = [*(str(r) for r in self.candidates.refusals), *(f"{t}: {r}" for t, r in sorted(self.refused.items()))]
        plugin = self.region.kind is Kind.PLUGIN
        error = NoKernel(
            f"no kernel can run this {self.region.kind.value}: " + ("; ".join(reasons[:6]) or "no tactic is for it"),
            node=self.name,
            fix=f"mend the plugin {self.region.ops[0].op}" if plugin else "report the model as a bug of Ingot",
        )
        error.signature = "" if plugin else self.region.signature
        return error
