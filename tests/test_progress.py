"""How long stages take, by what they report."""

from __future__ import annotations

from ingot.progress import Stopwatch


def test_time_counts_for_the_stage_that_was_told_of_last() -> None:
    now = iter([0.0, 1.0, 3.0, 4.0, 4.5, 6.0, 6.25, 7.0])
    heard: list[tuple[str, int, int]] = []
    watch = Stopwatch(lambda *told: heard.append(told), lambda: next(now))
    told = [("import", 0, 1), ("import", 1, 1), ("compile", 0, 2), ("measure", 1, 2), ("compile", 1, 2), ("plan", 0, 0)]
    for each in told:
        watch(*each)
    stages, total = watch.seconds()
    assert heard == told and total == 7.0 == sum(stages.values())
    assert stages == {"import": 2.0, "compile": 0.75, "measure": 1.5, "plan": 0.75, "other": 2.0}
    assert list(stages) == ["import", "compile", "measure", "plan", "other"]
