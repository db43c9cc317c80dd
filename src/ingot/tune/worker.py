"""A helper process that runs functions of Ingot, and that may crash or hang without harm.

Compilers segfault, kernels read illegally, both can hang; none of it may take the build along.
It is a plain ``subprocess`` and not ``multiprocessing``: a child of the latter imports the user's
``__main__`` again, which breaks every script without an ``if __name__ == "__main__"`` guard.

Messages are pickles with a length before them, over the child's stdin and stdout. Both ends are
this package, on this machine; nothing of it is ever stored.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any

from ingot.errors import No

TRY_AGAIN = "try again"
"""``No.fix`` of refusals that say nothing about the work itself and are not worth remembering."""
_LENGTH = struct.Struct("<Q")
_BOOT = "import sys; sys.path[:] = {path!r}; from ingot.tune.worker import serve; serve()"


class Worker:
    """One helper process, started at the first call and again after every crash or timeout."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self.starts = 0
        """How often a process was started: state kept in the child is lost when this changes."""

    @property
    def alive(self) -> bool:
        """Whether the process of the last call is still there, with whatever it keeps."""
        return self._process is not None

    def call(self, function: str, *args: object, timeout: float) -> Any:
        """``function`` (``module:name``) applied to ``args`` in the child.

        Returns what it returns, or a No when it raised, crashed or took longer than ``timeout`` seconds.
        """
        if self._closed:
            return No("the build was interrupted", fix=TRY_AGAIN)
        try:
            process = self._started()
            self._send(process, (function, args))
            answer = self._receive(process, time.monotonic() + timeout)
        except TimeoutError:
            self._stop()
            return No(f"no answer within {timeout:.0f} s", fix=TRY_AGAIN)
        except (EOFError, OSError):
            reason = self._death()
            self._stop()
            return No(reason)
        return answer

    def close(self) -> None:
        """Kill the process, whatever it does. Safe to call from another thread, and twice."""
        with self._lock:
            self._closed = True
        self._stop()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise EOFError
            if self._process is None:
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
                path = [os.path.abspath(p) for p in sys.path]
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT.format(path=path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    start_new_session=True,  # Ctrl-C reaches the parent alone, which then closes its workers
                )
                self.starts += 1
            return self._process

    def _send(self, process: subprocess.Popen[bytes], message: object) -> None:
        assert process.stdin is not None
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.write(_LENGTH.pack(len(data)) + data)
        process.stdin.flush()

    def _receive(self, process: subprocess.Popen[bytes], deadline: float) -> Any:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        (size,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size, deadline))
        return pickle.loads(_read(descriptor, size, deadline))

    def _death(self) -> str:
        process, errors = self._process, self._errors
        if process is None or errors is None:
            return "the helper process was closed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        cause = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        errors.seek(0)
        tail = errors.read()[-400:].decode(errors="replace").strip().splitlines()[-3:]
        return f"the helper process died ({cause})" + (f": {' / '.join(tail)}" if tail else "")

    def _stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            errors, self._errors = self._errors, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
        if errors is not None:
            errors.close()


def call_each(
    function: str, arguments: Iterable[tuple[object, ...]], *, jobs: int, timeout: float
) -> Generator[Any, None, None]:
    """What :meth:`Worker.call` gives for each of ``arguments``, in order; ``jobs`` helper processes share them."""
    workers = [Worker() for _ in range(jobs)]
    idle = SimpleQueue[Worker]()
    for worker in workers:
        idle.put(worker)

    def one(given: tuple[object, ...]) -> Any:
        worker = idle.get()
        try:
            return worker.call(function, *given, timeout=timeout)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, arguments)
    finally:
        for worker in workers:
            worker.close()


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    """Exactly ``size`` bytes. Raises TimeoutError at the deadline, EOFError when the child is gone."""
    parts: list[bytes] = []
    while size:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def serve() -> None:
    """The child's loop: until stdin closes, run what is asked and answer with the result or a No."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what compilers print goes to stderr, never into the answers
    while head := source.read(_LENGTH.size):
        function, args = pickle.loads(source.read(_LENGTH.unpack(head)[0]))
        data = pickle.dumps(_apply(function, args), protocol=pickle.HIGHEST_PROTOCOL)
        sink.write(_LENGTH.pack(len(data)) + data)
        sink.flush()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even if it hangs in a kernel or a compiler."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(71)


def _apply(function: str, args: tuple[object, ...]) -> object:
    try:
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(*args)
    except Exception as error:  # whatever the compiler or the driver raised is the candidate's refusal
        return No(one_line(error))


def one_line(error: Exception) -> str:
    """Type and message of an exception, fit for a note."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
