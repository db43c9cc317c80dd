"""The parts of the conformance run: loading cases, comparing results, telling how a case went."""

from __future__ import annotations

import ml_dtypes
import msgspec
import numpy as np
import pytest

from ingot.measure.conformance.cases import load_case
from ingot.measure.conformance.ledger import Column, Ledger, column, page, renewed
from ingot.measure.conformance.parameters import with_constants
from ingot.measure.conformance.run import run_case, run_cases
from ingot.measure.conformance.verdict import Outcome, distance, share

ONE = np.ones(3, np.float32)


def test_distance_is_in_units_of_the_tolerance() -> None:
    assert distance([ONE], [ONE], 1e-3, 0)[0] == 0
    assert distance([ONE], [ONE * 1.002], 1e-3, 0)[0] == pytest.approx(2, rel=1e-3)
    assert distance([ONE * 0], [ONE * 0.5], 1e-3, 0.25)[0] == 2


def test_distance_of_values_that_are_no_numbers() -> None:
    inf, nan = ONE * np.inf, ONE * np.nan
    assert distance([inf, nan], [inf, nan], 1e-3, 1e-7) == (0, "")
    assert distance([inf], [-inf], 1e-3, 1e-7)[0] == np.inf
    assert distance([ONE], [nan], 1e-3, 1e-7)[0] == np.inf
    assert distance([nan], [ONE], 1e-3, 1e-7)[0] == np.inf


def test_share_tells_rounding_from_wrong_results() -> None:
    wanted = np.float32([0, 1000, np.inf])
    assert share([wanted], [wanted + np.float32([1e-4, 0, 0])]) == pytest.approx(1e-7, rel=1e-3)
    assert share([wanted], [np.float32([0, 1000, 5])]) == np.inf
    assert share([ONE * 0], [ONE]) == np.inf and share([ONE * 0], [ONE * 0]) == 0
    assert share([[ONE]], [[ONE * 1.5]]) == 0.5


def test_other_shapes_types_and_counts_are_wrong() -> None:
    assert distance([ONE], [ONE[:2]], 1, 1) == (np.inf, "output 0: shape [2] instead of [3]")
    assert distance([ONE], [ONE.astype(np.float64)], 1, 1) == (np.inf, "output 0: float64 instead of float32")
    assert distance([ONE], [], 1, 1) == (np.inf, "0 values instead of 1")
    assert distance([[ONE]], [ONE], 1, 1)[1] == "output 0: ndarray instead of list"
    assert distance([None], [ONE], 1, 1)[1] == "output 0: ndarray instead of NoneType"


def test_sequences_strings_and_bfloat16() -> None:
    assert distance([[ONE, ONE]], [[ONE, ONE * 2]], 0.5, 0)[0] == 2
    texts = np.array(["a", "b"], object)
    assert distance([texts], [np.array(["a", "b"])], 0, 0) == (0, "")
    assert distance([texts], [np.array(["a", "c"])], 0, 0)[0] == np.inf
    brief = ONE.astype(ml_dtypes.bfloat16)
    assert distance([brief], [(brief * 1.0078125).astype(ml_dtypes.bfloat16)], 1e-3, 1e-7)[0] < 1


@pytest.mark.parametrize(
    "name",
    [
        "node/test_add",
        "simple/test_expand_shape_model1",
        "pytorch-operator/test_operator_conv",
        "light/test_squeezenet",
    ],
)
def test_cases_of_every_kind_load(name: str) -> None:
    case = load_case(name)
    assert f"{case.group}/{case.name}" == name
    feeds, wanted = case.data[0]
    assert feeds and len(wanted) == len(case.model.graph.output)


def test_a_case_that_does_not_exist() -> None:
    for name in ("node/test_nothing", "simple/test_nothing", "else/test_add"):
        with pytest.raises(KeyError):
            load_case(name)


def test_how_a_case_went() -> None:
    assert run_case("node/test_add", "cpu") == Outcome("node/test_add", "pass", ops=["Add"])
    assert run_case("node/test_add", "sm_90").kind == "pass"
    island = run_case("node/test_nonzero_example", "sm_90")
    assert island.kind == "island" and "NonZero" in island.reason and not island.as_constants
    fixed = run_case("node/test_top_k", "sm_90")
    assert fixed.kind == "island" and fixed.as_constants  # k is an input in the suite
    assert run_case("node/test_string_split_basic", "cpu").reason == ""
    refused = run_case("simple/test_gradient_of_add", "cpu")
    assert refused.kind == "refused" and "Gradient" in refused.reason
    evaluated = run_case("node/test_max_uint16", "cpu")  # ONNX Runtime has no such kernel
    assert evaluated.kind == "pass" and "ONNX's evaluator" in evaluated.reason
    assert run_case("node/test_max_uint16", "sm_90").kind == "pass"
    assert "random" in run_case("node/test_training_dropout", "cpu").reason


def test_a_hang_is_an_outcome() -> None:
    first, second = run_cases(["node/test_add", "node/test_abs"], "cpu", timeout=0.01)
    assert first.kind == second.kind == "wrong" and "no answer" in first.reason


def test_several_processes_keep_the_order() -> None:
    names = ["node/test_add", "node/test_abs", "node/test_relu"]
    assert [(o.case, o.kind) for o in run_cases(names, "cpu", jobs=2)] == [(name, "pass") for name in names]


def test_parameters_become_constants() -> None:
    case = with_constants(load_case("node/test_top_k"))
    assert case is not None and [v.name for v in case.model.graph.input] == ["x"]
    assert [t.name for t in case.model.graph.initializer] == ["k"] and case.data[0][0].keys() == {"x"}
    assert with_constants(load_case("node/test_add")) is None


def test_page() -> None:
    outcomes = [
        Outcome("node/test_a", "pass", ops=["A"]),
        Outcome("node/test_b", "island", "B: why | how", ["A", "B"], True),
        Outcome("light/test_c", "wrong", "<lambda>", ["C"]),
    ]
    one = column("sm_90", outcomes)
    assert one.native == ["A"] and one.ops == 3 and one.constants == ["B"]
    text = page(Ledger({"onnx": "1"}, [one]))
    assert "| `sm_90` | 3 | 1 | 0 | 1 | 0 | 1 | 2 |" in text
    assert "| light/test_c | wrong | &lt;lambda> |" in text and "| node/test_b | island | B: why \\| how |" in text
    assert "1 of the 3 op names" in text and "inputs as in the suite: B." in text


def test_some_cases_again() -> None:
    old = column(
        "cuda",
        [
            Outcome("node/test_a", "pass", ops=["A"]),
            Outcome("node/test_b", "island", "B: why", ["A", "B"], True),
            Outcome("node/test_d", "wrong", "far off", ["D"]),
            Outcome("light/test_c", "wrong", "far off", ["C"]),
        ],
    )
    again = [Outcome("node/test_b", "pass", ops=["A", "B"]), Outcome("light/test_c", "refused", "too large", ["C"])]
    one = renewed(old, again, "a card")
    assert (
        one.counts == column("cuda", [Outcome("node/test_a", "pass"), Outcome("node/test_d", "wrong"), *again]).counts
    )
    assert one.native == ["A", "B"] and one.constants == [] and one.machine == "a card"
    assert [(o.case, o.kind) for o in one.remarks] == [("node/test_d", "wrong"), ("light/test_c", "refused")]


def test_an_op_is_no_longer_on_the_device_when_its_only_case_turns_wrong() -> None:
    old = column(
        "cuda",
        [
            Outcome("node/test_a", "pass", ops=["A"]),
            Outcome("node/test_b", "near", "2 times further off", ["A", "B"]),
            Outcome("node/test_c", "pass", "in the evaluator", ["C"]),
            Outcome("node/test_d", "island", "D: why", ["D"], True),
            Outcome("node/test_e", "island", "E: why", ["E"], True),
        ],
    )
    old = msgspec.json.decode(msgspec.json.encode(old), type=Column)  # all that a later run knows of it
    assert old.native == ["A", "B", "C"] and old.constants == ["D", "E"]
    again = [
        Outcome("node/test_b", "wrong", "far off"),  # of a crash not even the ops are known
        Outcome("node/test_c", "wrong", "far off", ["C"]),
        Outcome("node/test_d", "island", "D: why", ["D"]),
    ]
    one = renewed(old, again)
    assert one.native == ["A"] and one.constants == ["E"]
    back = renewed(one, [Outcome("node/test_b", "pass", ops=["A", "B"])])
    assert back.native == ["A", "B"]
