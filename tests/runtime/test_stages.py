"""Alternating device and host stages."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingot.plan.spec import Step, When
from ingot.runtime.stages import stages


def step(kind: str, after: list[int], writes: tuple[int, ...] = (), when: tuple[int, ...] = ()) -> Step:
    return Step(kind, kind, 0, after, writes=list(writes), when=[When(value, True) for value in when])


def test_independent_device_steps_share_one_graph() -> None:
    rows = stages(
        [step("kernel", []), step("host", [0]), step("kernel", [0]), step("copy", [1]), step("kernel", [2, 3])]
    )
    assert [(s.host, s.steps) for s in rows] == [(False, (0, 2)), (True, (1,)), (False, (3, 4))]


def test_host_only_and_empty() -> None:
    assert [(s.host, s.steps) for s in stages([step("host", []), step("host", [0])])] == [(True, (0, 1))]
    assert stages([]) == ()


def test_a_stage_begins_when_its_conditions_are_known() -> None:
    tells, host = step("host", [], writes=(7,)), step("host", [0], when=(7,))
    assert [s.steps for s in stages([tells, host, step("host", [0])])] == [(0, 2), (1,)]
    assert [s.steps for s in stages([tells, step("kernel", [0], when=(7,)), host])] == [(0,), (1,), (2,)]


@st.composite
def plans(draw) -> list[Step]:
    steps = []
    for i in range(draw(st.integers(1, 20))):
        after = sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else []
        steps.append(step(draw(st.sampled_from(["kernel", "copy", "host"])), after))
    return steps


@given(plans())
def test_order_respects_dependencies(steps: list[Step]) -> None:
    rows = stages(steps)
    assert sorted(i for s in rows for i in s.steps) == list(range(len(steps)))
    position = {i: (at, s.steps.index(i)) for at, s in enumerate(rows) for i in s.steps}
    for i, one in enumerate(steps):
        assert all(position[before] < position[i] for before in one.after)
    assert all((steps[i].kind == "host") == s.host for s in rows for i in s.steps)
    assert all(a.host != b.host for a, b in pairwise(rows))
