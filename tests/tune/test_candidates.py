from __future__ import annotations

from support.tuning import Fake, doubling

from ingot.errors import No
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Target
from ingot.tune.candidates import candidates, first_acceptance

TARGET = Target(90)


def test_ranking_is_by_prediction_then_text() -> None:
    found = candidates(doubling(4), TARGET, {}, [Fake("b", (2e-6, 1e-6)), Fake("a", (1e-6,))])
    assert [c.text for c in found.offered] == ["b[x=0]", "b[x=1]", "a[x=0]"]
    assert [c.text for c in found.ranked] == ["a[x=0]", "b[x=1]", "b[x=0]"]


def test_shortlist_has_the_best_predicted_each_tactics_best_and_the_known() -> None:
    many = Fake("many", tuple(1e-6 + i * 1e-9 for i in range(40)))
    slow = Fake("slow", (1.0, 2.0))
    found = candidates(doubling(4), TARGET, {}, [many, slow])
    texts = [c.text for c in found.shortlist(3, ["many[x=39]", "gone[x=0]"])]
    assert texts == [*(f"many[x={i}]" for i in range(12)), "many[x=39]", "slow[x=0]"]
    assert len(found.shortlist(4)) == 31
    assert len(found.shortlist(5)) == 42


def test_refusals_are_kept_and_other_kinds_not_asked() -> None:
    tactics = [Fake("no", refusal="rank 7"), Fake("conv", kinds=frozenset({Kind.CONV}), refusal="never asked")]
    found = candidates(doubling(4), TARGET, {}, tactics)
    assert not found.offered
    assert [r.reason for r in found.refusals] == ["rank 7"]


def test_first_acceptance_collects_every_reason() -> None:
    region = doubling(4, name="layer7")
    assert first_acceptance(region, TARGET, [Fake("no", refusal="rank 7"), Fake("yes")])
    answer = first_acceptance(region, TARGET, [Fake("one", refusal="rank 7"), Fake("two", refusal="int4")])
    assert isinstance(answer, No)
    assert (answer.reason, answer.node) == ("one: rank 7; two: int4", "layer7")
    answer = first_acceptance(region, TARGET, [])
    assert isinstance(answer, No) and "no device kernel for kind map" in answer.reason


def test_views_need_no_kernel() -> None:
    region = doubling(4)
    assert first_acceptance(Region(Kind.VIEW, "v", ("x",), ("y",), region.ops, region.values), TARGET, [])
