"""Parallel compilation of variants in helper processes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from ingot import env
from ingot.errors import No
from ingot.graph.region import Region
from ingot.kernels.api import Program, Tactic, Target, Variant
from ingot.kernels.plugin import PluginTactic
from ingot.tune.worker import Worker, one_line

TIMEOUT = 120.0
"""Seconds after which a compilation is given up: the slowest useful one takes a tenth of it."""


@dataclass(frozen=True)
class Task:
    """One variant to compile. ``cost`` orders the tasks: dearest first, so that no long one ends alone."""

    region: Region
    tactic: Tactic
    variant: Variant
    cost: float = 0.0


Result = tuple[int, Program | No]
"""Index of the task, and its Program or the reason why it has none."""


class CompilePool:
    """Up to ``jobs`` compiling processes (``env.compile_jobs()`` if None), kept between calls.

    With one job everything happens in this process, plugins' kernels always. Leaving the ``with`` block, also by
    KeyboardInterrupt, kills the processes.
    """

    def __init__(self, target: Target, *, jobs: int | None = None, timeout: float = TIMEOUT) -> None:
        self._target, self._timeout = target, timeout
        count = env.compile_jobs() if jobs is None else jobs
        self._workers = [Worker() for _ in range(count if count > 1 else 0)]

    @property
    def jobs(self) -> int:
        """Tasks that are compiled at the same time."""
        return max(1, len(self._workers))

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.close()

    def compile(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """Compile every task, yielding results as they come; each task yields exactly once."""
        order = sorted(range(len(tasks)), key=lambda i: (-tasks[i].cost, i))
        # A plugin's code may live where no other process can import it: in a script, in a notebook.
        here = [i for i in order if not self._workers or isinstance(tasks[i].tactic, PluginTactic)]
        local = set(here)
        order = [i for i in order if i not in local]
        pending: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in order:
            pending.put(index)
        done: queue.SimpleQueue[Result] = queue.SimpleQueue()
        for worker in self._workers[: len(order)]:
            threading.Thread(target=self._drain, args=(worker, tasks, pending, done), daemon=True).start()
        for index in here:
            yield index, self._here(tasks[index])
        for _ in order:
            yield done.get()

    def _drain(
        self, worker: Worker, tasks: Sequence[Task], pending: queue.SimpleQueue[int], done: queue.SimpleQueue[Result]
    ) -> None:
        """A thread's work: feed one worker until nothing is pending. Every index taken is answered."""
        while True:
            try:
                index = pending.get_nowait()
            except queue.Empty:
                return
            try:
                answer = worker.call(_COMPILE, tasks[index], self._target, timeout=self._timeout)
                done.put((index, _checked(answer, self._target)))
            except Exception as error:  # such as a tactic that does not pickle
                done.put((index, No(one_line(error))))

    def _here(self, task: Task) -> Program | No:
        try:
            return _checked(compile_task(task, self._target), self._target)
        except Exception as error:  # whatever the compiler raises is this variant's refusal
            return No(one_line(error))


_COMPILE = f"{__name__}:compile_task"


def compile_task(task: Task, target: Target) -> Program:
    """Compile one task in this process: what the helper processes run."""
    return task.tactic.compile(task.region, task.variant, target)


def _checked(result: Program | No, target: Target) -> Program | No:
    """Refuse what the target cannot launch."""
    if isinstance(result, Program):
        for kernel in result.kernels:
            if kernel.shared > target.shared_per_block:
                return No(f"{kernel.shared} bytes of shared memory; {target.name} has {target.shared_per_block}")
    return result
