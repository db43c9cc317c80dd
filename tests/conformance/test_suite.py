"""ONNX's backend suite through the whole path: a sample for every change, all of it nightly."""

from __future__ import annotations

from importlib.metadata import version

import msgspec
import pytest
from support.snippets import ROOT

from ingot.measure.conformance.cases import case_names
from ingot.measure.conformance.ledger import RIGHT, Ledger, column, page, total
from ingot.measure.conformance.run import run_cases
from ingot.measure.conformance.verdict import Outcome

JSON = ROOT / "benchmarks" / "results" / "conformance.json"
TARGETS = ("cpu", "sm_90")
_EVERY = 13
"""A sample of some 150 cases, of all groups and without the networks, which take seconds each."""


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return msgspec.json.decode(JSON.read_bytes(), type=Ledger)


def _known(ledger: Ledger, target: str) -> dict[str, Outcome]:
    (one,) = (one for one in ledger.columns if one.target == target)
    return {outcome.case: outcome for outcome in one.remarks}


def _worse(outcomes: list[Outcome], known: dict[str, Outcome]) -> list[Outcome]:
    """Outcomes that are less than the ledger has: it lists every case that is not a plain pass."""
    rank = {kind: number for number, kind in enumerate(("pass", "near", "island", "refused", "wrong"))}
    had = {o.case: rank[known[o.case].kind] if o.case in known else 0 for o in outcomes}
    return [o for o in outcomes if rank[o.kind] > had[o.case]]


def _same_suite(ledger: Ledger) -> bool:
    """Whether the ledger was made with the libraries that are installed."""
    return all(ledger.versions[name] == version(name) for name in ("onnx", "onnxruntime"))


@pytest.mark.parametrize("target", TARGETS)
def test_sample(target: str, ledger: Ledger) -> None:
    names = [name for name in case_names() if not name.startswith("light/")][::_EVERY]
    outcomes = list(run_cases(names, target))
    assert 140 <= len(outcomes) <= 170
    assert sum(o.kind in RIGHT for o in outcomes) > 0.8 * len(outcomes)
    if _same_suite(ledger):
        assert not _worse(outcomes, _known(ledger, target))


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
def test_whole_suite(target: str, ledger: Ledger) -> None:
    outcomes = list(run_cases(case_names(), target))
    assert sum(o.kind in RIGHT for o in outcomes) > 0.8 * len(outcomes)
    if _same_suite(ledger):
        assert not _worse(outcomes, _known(ledger, target))
        (one,) = (one for one in ledger.columns if one.target == target)
        assert len(outcomes) == total(one).total()
        assert set(one.native) <= set(column(target, outcomes).native)


def test_page_is_made_of_the_ledger(ledger: Ledger) -> None:
    assert (ROOT / "docs" / "conformance.md").read_text() == page(ledger)
