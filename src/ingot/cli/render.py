"""How things look on a terminal: progress, tables, sizes and times."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingot.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STAGES = {
    "import": "reading the model",
    "passes": "rewriting",
    "lower": "fusing",
    "tactics": "asking tactics",
    "compile": "compiling candidates",
    "measure": "measuring candidates",
    "whole": "comparing engines",
    "plan": "planning memory",
    "original": "running the original",
    "equalise": "evening out channels",
    "observer": "compiling for calibration",
    "calibrate": "calibrating",
    "alternatives": "trying ranges and biases",
    "sensitivity": "trying single layers",
    "evaluate": "measuring the loss",
    "report": "comparing layers",
}
_WIDE = 160
"""Columns where the output is no terminal, so that tables in files and logs are whole."""


def console(*, stderr: bool = False) -> Console:
    """Where tables go; wide when it is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, soft_wrap=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and whose others are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


@contextmanager
def build_progress() -> Iterator[Progress]:
    """A bar with the stage and what remains of it; a line per stage where stderr is no terminal."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:22}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=1, left="")

        def report(stage: str, done: int, total: int) -> None:
            left = f"{total - done} left" if total > 1 else ""
            bar.update(task, description=_STAGES.get(stage, stage), completed=done, total=max(total, 1), left=left)

        yield report


def _lines() -> Progress:
    seen: set[str] = set()

    def report(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            count = f" ({total})" if total > 1 else ""
            print(f"{_STAGES.get(stage, stage)}{count}", file=sys.stderr, flush=True)

    return report


def size(count: int) -> str:
    """Bytes, in the unit that fits."""
    number, unit = float(count), "B"
    for bigger in ("KiB", "MiB", "GiB"):
        if number < 1024:
            break
        number, unit = number / 1024, bigger
    return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"


def number(value: float) -> str:
    """Three significant digits without an exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 0
    return f"{value:.{digits}f}" if abs(value) >= 1 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage; a dash for nothing known."""
    return f"{100 * share:.1f} %" if share else "–"


def shape(dims: Sequence[int | str]) -> str:
    """``1x3x224x224``; a scalar is ``()``."""
    return "x".join(map(str, dims)) or "()"


def shorten(text: str, most: int) -> str:
    """``text`` on one line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
