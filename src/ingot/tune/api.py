"""Chooses a variant for every Region of a lowered Graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.device.device import Device
from ingot.errors import No
from ingot.graph.dims import Bindings
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Tactic, Target
from ingot.options import BuildOptions
from ingot.progress import Progress, silent
from ingot.tune.candidates import Candidate, candidates
from ingot.tune.choice import Choice
from ingot.tune.compile_pool import Task
from ingot.tune.compiler import Compiler
from ingot.tune.compilers import compilers
from ingot.tune.contest import LIMITS, Contest, Judge, applied, contests, hold, in_order, settled, verdict_key
from ingot.tune.database import Database, Entry, Key, Verdict, record_merge, recorded, user_path
from ingot.tune.job import Job, NoKernel
from ingot.tune.measure import DeviceMeasurer, Measurer
from ingot.tune.reuse import distances
from ingot.tune.setting import Setting, Timing

__all__ = ["NoKernel", "Progress", "choose", "decide", "measurer_for", "time_layers"]

_MEASURES_FROM = 3


def choose(
    lowered: Lowered,
    target: Target,
    options: BuildOptions,
    tactics: Sequence[Tactic],
    *,
    progress: Progress,
    device: Device | None,
    judge: Judge | None = None,
) -> list[Choice]:
    """One Choice per Region of ``lowered``, in the same order; equal Regions share theirs.

    With a ``device`` and ``options.opt_level`` >= 3 variants are measured there and the times kept in the
    user's timing database; ``judge``, which is closed, then decides between those that are equally fast alone.
    Otherwise the databases and the cost model decide.
    Raises NoKernel for a Region that nothing can run, and IngotError for a damaged database.
    """
    measurer: Measurer | None = None
    if device is not None and options.opt_level >= _MEASURES_FROM:
        measurer = measurer_for(lowered, target, device)
    try:
        return decide(lowered, target, options, tactics, progress=progress, measurer=measurer, judge=judge)
    finally:
        for helper in (measurer, judge):
            if helper is not None:
                helper.close()


def decide(
    lowered: Lowered,
    target: Target,
    options: BuildOptions,
    tactics: Sequence[Tactic],
    *,
    progress: Progress,
    measurer: Measurer | None,
    judge: Judge | None = None,
    jobs: int | None = None,
) -> list[Choice]:
    """:func:`choose` with any Measurer and Judge, and ``jobs`` compile processes (``env.compile_jobs()`` if None)."""
    path = user_path(target, options.timing_db)
    user = Database.load(path) if options.opt_level >= 2 else Database()
    shipped = recorded(target) if options.opt_level >= 2 else Database()
    bindings = lowered.bindings()
    work = _jobs(lowered, target, tactics, measurer, user, shipped, progress)
    with Compiler(target, jobs=jobs) as compiler:
        tuner = _Tuner(compiler, bindings, options.opt_level, progress, user, measurer)
        if measurer is not None and options.opt_level >= _MEASURES_FROM:
            tuner.measure_and_keep(list(work.values()), path)
        chosen = tuner.settle(work)
        if options.opt_level >= 2:
            whole = _Whole(lowered, work, chosen, tuner, shipped)
            chosen |= whole.decided(target, options.opt_level, measurer, judge, path)
    return in_order(lowered, chosen)


def time_layers(
    lowered: Lowered,
    target: Target,
    options: BuildOptions,
    tactics: Sequence[Tactic],
    *,
    measurer: Measurer,
    missing: bool = False,
    progress: Progress = silent,
    jobs: int | None = None,
) -> list[float | None]:
    """Measures the distinct Regions of ``lowered`` for the user's timing database, and builds nothing.

    ``missing``: only those without a time on this device in the database that Ingot ships, by whatever compilers.
    Returns of each Region that was asked about the fastest variant's microseconds; None where none could be measured.
    Raises NoKernel for a Region that nothing can run, and IngotError for a damaged database.
    """
    path = user_path(target, options.timing_db)
    user, shipped = Database.load(path), recorded(target)
    work = _jobs(lowered, target, tactics, measurer, user, shipped, progress)
    wanted = [job for job in work.values() if not (missing and shipped.hints(job.key)[1] == measurer.device)]
    with Compiler(target, jobs=jobs) as compiler:
        tuner = _Tuner(compiler, lowered.bindings(), options.opt_level, progress, user, measurer)
        tuner.measure_and_keep(wanted, path)
    return [min(entry.micros.values(), default=None) if (entry := user.get(job.key)) else None for job in wanted]


def measurer_for(lowered: Lowered, target: Target, device: Device) -> Measurer:
    """What measures Regions of ``lowered`` on ``device``; to be closed."""
    return DeviceMeasurer(device.info.name, Setting(device.ordinal, target.tf32, lowered.constant_bytes))


def _jobs(
    lowered: Lowered,
    target: Target,
    tactics: Sequence[Tactic],
    measurer: Measurer | None,
    user: Database,
    shipped: Database,
    progress: Progress,
) -> dict[str, Job]:
    """A Job for every distinct Region that does work, by signature."""
    work: dict[str, Job] = {}
    bindings = lowered.bindings()
    ages = distances(lowered, bindings) if measurer is not None else {}
    distinct = {r.signature: r for r in reversed(lowered.regions) if r.kind not in (Kind.VIEW, Kind.HOST)}
    for done, (signature, region) in enumerate(sorted(distinct.items())):
        progress("tactics", done, len(distinct))
        work[signature] = _job(region, target, bindings, tactics, measurer, user, shipped)
        work[signature].ages = ages.get(region.likeness, ())
    progress("tactics", len(distinct), len(distinct))
    return work


@dataclass
class _Whole:
    """The last step: contests between whole engines, held or remembered."""

    lowered: Lowered
    jobs: dict[str, Job]
    chosen: dict[str, Choice]
    tuner: _Tuner
    shipped: Database

    def decided(
        self, target: Target, level: int, measurer: Measurer | None, judge: Judge | None, path: Path
    ) -> dict[str, Choice]:
        """Choices, by signature, of the Regions that a contest decides; new results go to the file ``path``."""
        held = contests(self.lowered, self.jobs, self.chosen, level)
        if not held:
            return {}
        device = measurer.device if measurer is not None else ""
        key = verdict_key(self.lowered, held, target, device, compilers())
        user = self.tuner.user
        verdict = user.verdict(key, exact=measurer is not None)
        if verdict is None and measurer is not None and judge is not None:
            times = hold(
                self.lowered, self.chosen, held, judge, self._rivals, LIMITS[level], progress=self.tuner.progress
            )
            verdict = Verdict(key, times)
            record_merge(path, [], [verdict])  # also an empty one: the next build must not come out otherwise
        if verdict is None and measurer is None:
            verdict = self.shipped.verdict(key, exact=False)
        return self._apply(verdict, held) if verdict is not None else {}

    def _apply(self, verdict: Verdict, held: Sequence[Contest]) -> dict[str, Choice]:
        chosen: dict[str, Choice] = {}
        for contest in held:
            micros = applied(verdict, contest)
            winner = next(iter(micros), None)
            made = self._variants(contest, (winner,)) if winner is not None else {}
            for choices in made.values():
                chosen |= {signature: settled(choice, micros) for signature, choice in choices.items()}
        return chosen

    def _rivals(self, contest: Contest) -> dict[str, dict[str, Choice]]:
        return self._variants(contest, contest.texts)

    def _variants(self, contest: Contest, texts: Sequence[str]) -> dict[str, dict[str, Choice]]:
        """By text, then by signature: ``texts`` compiled for every Region of the contest."""
        made = {signature: self.tuner.variants(self.jobs[signature], texts) for signature in contest.signatures}
        whole = [text for text in texts if all(text in choices for choices in made.values())]
        return {text: {signature: choices[text] for signature, choices in made.items()} for text in whole}


def _job(
    region: Region,
    target: Target,
    bindings: Bindings,
    tactics: Sequence[Tactic],
    measurer: Measurer | None,
    user: Database,
    shipped: Database,
) -> Job:
    canonical = region.canonical
    key = Key.of(region, target, bindings, measurer.device if measurer else "", compilers())
    found = candidates(canonical, target, bindings, tactics)
    known, place = user.hints(key)
    if not known:
        known, place = shipped.hints(key)
    job = Job(canonical, region.name, key, found, known, user.refusals(key), place if place != key.device else "")
    if not found.offered:
        raise job.failure()
    return job


@dataclass
class _Pending:
    """Compilations of one Job that are under way before it can be measured."""

    job: Job
    left: int
    programs: dict[str, Program]
    failed: dict[str, Timing | No]


class _Tuner:
    """The two ways to decide: by measuring, and by what is known or predicted."""

    def __init__(
        self,
        compiler: Compiler,
        bindings: Bindings,
        level: int,
        progress: Progress,
        user: Database,
        measurer: Measurer | None,
    ) -> None:
        self._compiler, self._bindings, self._level, self.progress = compiler, bindings, level, progress
        self.user, self._measurer = user, measurer
        self.fresh: list[Entry] = []
        """What was measured here and is not in the database's file yet."""

    def measure_and_keep(self, work: Sequence[Job], path: Path) -> None:
        """:meth:`measure`; what came of it is merged into the file at ``path``, also when it is interrupted."""
        try:
            self.measure(work)
        finally:
            if self.fresh:
                record_merge(path, self.fresh)

    def measure(self, work: Sequence[Job]) -> None:
        """Compile and measure shortlists until every Job has a measured variant, or none left to try.

        Of Jobs that are alike but for scales, the first is measured for all.
        """
        jobs = list({job.key: job for job in reversed(work)}.values())[::-1]
        while jobs:
            plan = [(job, job.to_measure(self._level, self._times(job))) for job in jobs]
            plan = [(job, wanted) for job, wanted in plan if wanted]
            self._measure_round(plan)
            jobs = [job for job, _ in plan if job.measurable and not self._times(job)]
        for job in work:
            if times := self._times(job):  # times of other devices do not compare with those of this one
                job.known, job.recorded_on = times, ""
            job.refused |= self.user.refusals(job.key)

    def _times(self, job: Job) -> dict[str, float]:
        entry = self.user.get(job.key)
        return entry.micros if entry is not None else {}

    def _measure_round(self, plan: Sequence[tuple[Job, list[Candidate]]]) -> None:
        tasks: list[tuple[_Pending, Candidate, Task]] = []
        for job, wanted in plan:
            pending = _Pending(job, len(wanted), {}, {})
            tasks += [(pending, candidate, job.task(candidate)) for candidate in wanted]
        measured = 0
        self.progress("compile", 0, len(tasks))
        for done, (index, result) in enumerate(self._compiler.programs([task for _, _, task in tasks])):
            pending, candidate, _ = tasks[index]
            self.progress("compile", done + 1, len(tasks))
            if isinstance(result, Program):
                pending.programs[candidate.text] = result
            else:
                pending.failed[candidate.text] = result
            pending.left -= 1
            if not pending.left:  # the processes go on compiling while this waits for the device
                measured += len(pending.programs) + len(pending.failed)
                self._measure_job(pending)
                self.progress("measure", measured, len(tasks))

    def _measure_job(self, pending: _Pending) -> None:
        assert self._measurer is not None
        job, results = pending.job, dict(pending.failed)
        programs = {text: pending.programs[text] for text in sorted(pending.programs)}
        if programs:
            answer = self._measurer.measure(job.region, self._bindings, programs, job.ages)
            if isinstance(answer, No):
                job.notes.append(f"not measured: {answer}")
                job.measurable = False
            else:
                results |= answer
                job.programs |= programs
        entry = job.learn(results)
        if entry.micros or entry.refused:
            self.user.add(entry)
            self.fresh.append(entry)

    def settle(self, work: dict[str, Job]) -> dict[str, Choice]:
        """Compile each Job's most preferred variant; the next one where that fails. Raises NoKernel."""
        chosen: dict[str, Choice] = {}
        open_jobs = dict(work)
        while open_jobs:
            first = {signature: self._preferred(job) for signature, job in open_jobs.items()}
            self._compile(open_jobs, first)
            for signature, candidate in first.items():
                job = open_jobs[signature]
                if candidate.text in job.programs:
                    chosen[signature] = job.choice(candidate, self._level)
                    job.programs.clear()
                    del open_jobs[signature]
        return chosen

    def variants(self, job: Job, texts: Sequence[str]) -> dict[str, Choice]:
        """The variants ``texts`` of one Job as Choices, by text; those that do not compile are left out."""
        wanted = [c for c in job.candidates.offered if c.text in texts]
        made: dict[str, Choice] = {}
        for index, result in self._compiler.programs([job.task(c) for c in wanted]):
            if isinstance(result, Program):
                candidate = wanted[index]
                job.programs[candidate.text] = result
                made[candidate.text] = job.choice(candidate, self._level)
        job.programs.clear()
        return made

    def _preferred(self, job: Job) -> Candidate:
        order = job.order(self._level)
        if not order:
            raise job.failure()
        return order[0]

    def _compile(self, jobs: dict[str, Job], wanted: dict[str, Candidate]) -> None:
        todo = [(jobs[s], c) for s, c in wanted.items() if c.text not in jobs[s].programs]
        self.progress("compile", 0, len(todo))
        for done, (index, result) in enumerate(self._compiler.programs([job.task(c) for job, c in todo])):
            self.progress("compile", done + 1, len(todo))
            job, candidate = todo[index]
            if isinstance(result, Program):
                job.programs[candidate.text] = result
            else:
                job.refused[candidate.text] = result.reason
