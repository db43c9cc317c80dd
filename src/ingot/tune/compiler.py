"""Programs by variant: from the cache where they are, from the compile processes where they are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

from ingot.kernels.api import Program, Target
from ingot.tune import program_cache
from ingot.tune.compile_pool import CompilePool, Result, Task
from ingot.tune.compilers import compilers


class Compiler:
    """A CompilePool behind the Program cache. Use as a context manager: leaving it ends the processes."""

    def __init__(self, target: Target, *, jobs: int | None = None) -> None:
        self._target = target
        self._pool = CompilePool(target, jobs=jobs)
        self.compiled = 0
        """Variants that were not in the cache."""

    @property
    def jobs(self) -> int:
        """Processes that compile at the same time."""
        return self._pool.jobs

    def __enter__(self) -> Compiler:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def programs(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """Each task's index with its Program, or the reason why it has none, as they come."""
        paths = [program_cache.path_of(t.region, str(t.variant), self._target, compilers()) for t in tasks]
        missing: list[int] = []
        for index, path in enumerate(paths):
            program = program_cache.load(path)
            if program is None:
                missing.append(index)
            else:
                yield index, program
        for position, result in self._pool.compile([tasks[index] for index in missing]):
            index = missing[position]
            if isinstance(result, Program):
                self.compiled += 1
                task = tasks[index]
                program_cache.save(paths[index], result, task.region, str(task.variant), self._target)
            yield index, result
