"""What choosing without measuring costs, by recorded times."""

from __future__ import annotations

import pytest
from support.tuning import Fake, doubling, lowered

from ingot.kernels.api import Target
from ingot.tune.database import Database, Entry, Key
from ingot.tune.regret import regret

TARGET = Target(90)
TIMES = {"fake[x=0]": 4.0, "fake[x=1]": 5.0}


def entry(size: int, times: dict[str, float]) -> Entry:
    return Entry(Key.of(doubling(size), TARGET, {}, "H", "c"), "map", times)


def test_databases_choose_the_best_and_the_cost_model_what_it_thinks() -> None:
    graph = lowered(doubling(4, name="a"), doubling(4, name="b"), doubling(5, name="c"), doubling(6, name="d"))
    truth = Database([entry(4, TIMES), entry(5, {"fake[x=0]": 2.0, "fake[x=2]": 1.0})])
    modelled = regret(graph, TARGET, [Fake()], truth, None)  # the model likes fake[x=1] best
    assert modelled.untimed == 1 and len(modelled.layers) == 2
    assert (modelled.best, modelled.chosen) == (8.0, 10.0)
    assert modelled.unknown == pytest.approx(1.0 / 9.0)  # of the third layer fake[x=1] was never measured
    shipped = Database([entry(4, TIMES)])
    half = regret(graph, TARGET, [Fake()], truth, shipped)
    assert (half.best, half.chosen) == (8.0, 8.0) and [layer.recorded for layer in half.layers].count(True) == 1
    whole = regret(graph, TARGET, [Fake()], truth, truth)
    assert whole.best == whole.chosen == 9.0 and whole.unknown == 0
    named = {layer.label: (layer.variant, layer.fastest) for layer in whole.layers}
    assert named == {"map a": ("fake[x=0]",) * 2, "map c": ("fake[x=2]",) * 2}
