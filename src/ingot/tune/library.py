"""The library: variants compiled ahead of builds, in the content-addressed cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot import env
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Tactic, Target
from ingot.tune import program_cache
from ingot.tune.candidates import candidates
from ingot.tune.compile_pool import Task
from ingot.tune.compiler import Compiler


@dataclass(frozen=True)
class BuildReport:
    """What :func:`build` did."""

    variants: int
    """Variants now in the cache, of those asked for."""
    compiled: int
    """Of them, compiled just now."""
    failed: tuple[str, ...]
    """``variant: reason`` of those that do not compile, sorted."""
    bytes: int
    """Machine code of all variants asked for."""
    seconds: float


@dataclass(frozen=True)
class Group:
    """Cached variants of one target, kind of Region and tactic."""

    target: str
    kind: str
    tactic: str
    variants: int
    bytes: int


def folder() -> Path:
    """Where compiled kernels lie."""
    return env.cache_dir() / "cubin"


def build(
    regions: Sequence[tuple[Region, Bindings]],
    target: Target,
    tactics: Sequence[Tactic],
    *,
    level: int = 3,
    jobs: int | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> BuildReport:
    """Compile what a build at optimisation level ``level`` would measure for ``regions`` (with their shapes)."""
    start = time.monotonic()
    tasks: dict[tuple[str, str], Task] = {}
    for region, bindings in regions:
        if region.kind in (Kind.VIEW, Kind.HOST):
            continue
        for candidate in candidates(region.canonical, target, bindings, tactics).shortlist(level):
            task = Task(region.canonical, candidate.tactic, candidate.variant, candidate.seconds)
            tasks.setdefault((region.signature, candidate.text), task)
    work, size, failed = list(tasks.values()), 0, list[str]()
    with Compiler(target, jobs=jobs) as compiler:
        for done, (index, result) in enumerate(compiler.programs(work)):
            progress("compile", done + 1, len(work))
            if isinstance(result, Program):
                size += sum(len(kernel.cubin) for kernel in result.kernels)
            else:
                failed.append(f"{work[index].variant}: {result}")
        compiled = compiler.compiled
    return BuildReport(len(work) - len(failed), compiled, tuple(sorted(failed)), size, time.monotonic() - start)


def contents() -> list[Group]:
    """The cached variants, grouped and sorted. Damaged files are left out."""
    counts: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    for path in folder().glob(f"*/*{program_cache.SUFFIX}"):
        described = program_cache.describe(path)
        if described is not None:
            target, kind, variant = described
            key = target, kind, variant.partition("[")[0]
            counts[key] += 1
            sizes[key] += path.stat().st_size
    return [Group(*key, counts[key], sizes[key]) for key in sorted(counts)]


def prune(limit: int) -> tuple[int, int]:
    """Delete the files used longest ago until at most ``limit`` bytes are left; returns (files, bytes) deleted.

    All of the folder counts: also what the compilers keep there by source.
    """
    files: list[tuple[float, Path, int]] = []
    for path in folder().glob("*/*"):
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
