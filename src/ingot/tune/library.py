"""The library: variants compiled ahead of builds, in the content-addressed cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels import store
from ingot.kernels.api import Program, Tactic, Target
from ingot.progress import Progress, silent
from ingot.tune import program_cache
from ingot.tune.candidates import Candidate, best_known, candidates
from ingot.tune.compile_pool import Task
from ingot.tune.compiler import Compiler
from ingot.tune.database import Database, Key
from ingot.tune.families import family_of, read_by_attention

_ROUND = 32
"""Variants for each compile process that are handed out at once: the time limit is looked at in between."""


@dataclass(frozen=True)
class Planned:
    """One variant to compile."""

    rank: int
    """Place among its Region's: all best ones come first, then all second best."""
    task: Task
    family: str
    """What kind of layer it is for (:mod:`ingot.tune.families`)."""

    @property
    def tactic(self) -> str:
        """Kind of Region and tactic: ``conv triton.depthwise``."""
        return f"{self.task.region.kind.value} {self.task.variant.tactic}"


@dataclass(frozen=True)
class BuildReport:
    """What :func:`build` did."""

    variants: int
    """Variants now in the cache, of those asked for."""
    compiled: int
    """Of them, compiled just now."""
    failed: tuple[str, ...]
    """``variant: reason`` of those that do not compile, sorted."""
    left: int
    """Variants that the time limit left out."""
    families: dict[str, int]
    """Variants now in the cache by family, sorted."""
    tactics: dict[str, int]
    """The same by kind of Region and tactic."""
    codes: int
    """Distinct machine codes among them."""
    bytes: int
    """Size of these, uncompressed."""
    stored: int
    """Size of their files, compressed."""
    seconds: float
    jobs: int
    """Compile processes."""

    @property
    def present(self) -> int:
        """Variants that were in the cache before."""
        return self.variants - self.compiled


@dataclass(frozen=True)
class Group:
    """Cached variants of one target, kind of Region and tactic."""

    target: str
    kind: str
    tactic: str
    variants: int
    codes: int
    """Distinct machine codes."""
    bytes: int
    """Their files' size; code that several groups share counts in each."""


def planned(
    regions: Sequence[tuple[Region, Bindings]],
    target: Target,
    tactics: Sequence[Tactic],
    *,
    level: int = 3,
    known: Database | None = None,
    per_layer: int | None = None,
) -> list[Planned]:
    """What a build at optimisation level ``level`` would measure for ``regions`` (with their shapes), each once.

    The fastest that ``known`` has come first: builds without a GPU take them. ``per_layer``: only so many of each.
    """
    found: dict[tuple[str, str], Planned] = {}
    seen: set[tuple[str, tuple[tuple[str, int], ...]]] = set()
    for_attention = read_by_attention([region for region, _ in regions])
    for region, bindings in regions:
        look = region.signature, tuple(sorted(bindings.items()))
        if region.kind in (Kind.VIEW, Kind.HOST) or look in seen:
            continue
        seen.add(look)
        family = family_of(region, for_attention)
        for rank, candidate in enumerate(_likeliest(region, bindings, target, tactics, level, known)[:per_layer]):
            task = Task(region.canonical, candidate.tactic, candidate.variant, candidate.seconds)
            found.setdefault((region.signature, candidate.text), Planned(rank, task, family))
    return list(found.values())


def _likeliest(
    region: Region, bindings: Bindings, target: Target, tactics: Sequence[Tactic], level: int, known: Database | None
) -> list[Candidate]:
    """What a build would measure of one Region: the best that ``known`` has, then by prediction."""
    times = known.hints(Key.of(region, target, bindings, "", ""))[0] if known is not None else {}
    best = best_known(times)
    shortlist = candidates(region.canonical, target, bindings, tactics).shortlist(level, best)
    place = {text: position for position, text in enumerate(best)}
    return sorted(shortlist, key=lambda candidate: place.get(candidate.text, len(place)))


def distinct(parts: Iterable[Sequence[Planned]]) -> list[Planned]:
    """What several models ask for, each variant once; the best of every Region first."""
    found: dict[tuple[str, str], Planned] = {}
    for part in parts:
        for item in part:
            found.setdefault((item.task.region.signature, str(item.task.variant)), item)
    return sorted(found.values(), key=lambda item: item.rank)


def build(
    work: Sequence[Planned],
    target: Target,
    *,
    jobs: int | None = None,
    limit: float | None = None,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> BuildReport:
    """Compile ``work`` in parallel, in its order; nothing new is begun later than ``limit`` seconds after the start."""
    start, failed, codes = clock(), list[str](), dict[str, int]()
    families, tactics = Counter[str](), Counter[str]()
    done = 0
    with Compiler(target, jobs=jobs) as compiler:
        while done < len(work) and (limit is None or clock() - start < limit):
            part = work[done : done + _ROUND * compiler.jobs]
            for index, result in compiler.programs([item.task for item in part]):
                progress("compile", done := done + 1, len(work))
                if isinstance(result, Program):
                    families[part[index].family] += 1
                    tactics[part[index].tactic] += 1
                    codes |= {store.digest(kernel.cubin): len(kernel.cubin) for kernel in result.kernels}
                else:
                    failed.append(f"{part[index].task.variant}: {result}")
        compiled, processes = compiler.compiled, compiler.jobs
    return BuildReport(
        variants=families.total(),
        compiled=compiled,
        failed=tuple(sorted(failed)),
        left=len(work) - done,
        families=dict(sorted(families.items())),
        tactics=dict(sorted(tactics.items())),
        codes=len(codes),
        bytes=sum(codes.values()),
        stored=sum(store.stored_bytes(code) for code in codes),
        seconds=clock() - start,
        jobs=processes,
    )


def contents() -> list[Group]:
    """The cached variants, grouped and sorted. Damaged files are left out."""
    counts: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    codes: dict[tuple[str, str, str], set[str]] = {}
    for path in store.folder().glob(f"*/*{program_cache.SUFFIX}"):
        found = program_cache.describe(path)
        if found is not None:
            key = found.target, found.kind, found.variant.partition("[")[0]
            counts[key] += 1
            sizes[key] += path.stat().st_size
            codes.setdefault(key, set()).update(found.codes)
    for key, digests in codes.items():
        sizes[key] += sum(store.stored_bytes(digest) for digest in digests)
    return [Group(*key, counts[key], len(codes[key]), sizes[key]) for key in sorted(counts)]


def prune(limit: int) -> tuple[int, int]:
    """Delete the files used longest ago until at most ``limit`` bytes are left; returns (files, bytes) deleted.

    All of the folder counts: also what the compilers keep there by source.
    """
    files: list[tuple[float, Path, int]] = []
    for path in store.folder().glob("*/*"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another build is at work
            continue
        files.append((status.st_mtime, path, status.st_size))
    excess, count, freed = sum(size for _, _, size in files) - limit, 0, 0
    for _, path, size in sorted(files):
        if freed >= excess:
            break
        path.unlink(missing_ok=True)
        count, freed = count + 1, freed + size
    return count, freed
