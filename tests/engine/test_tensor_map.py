"""Tensor maps in a Plan: their form and their reach are checked before anything uses them."""

from __future__ import annotations

import msgspec
import pytest

from ingot.engine.verify import verify
from ingot.errors import IngotError
from ingot.plan.spec import Argument, Binding, Cubin, Memory, Plan, Profile, RegionDecl, Step, TensorMapDecl, ValueDecl

PLAIN = TensorMapDecl("float16", [64, "4*N"], [128], [64, 64], 128)
PIXELS = TensorMapDecl("float16", [16, 4, 4, "N"], [32, 128, 512], [16, 64], 32, [-1, -1], [-1, -1], [1, 1])


def plan(item: TensorMapDecl | None, space: str = "input", offset: int = 0) -> Plan:
    """One kernel that reads float16[N, 256] through ``item``."""
    size = "512*N"
    memory = Memory(space, offset, size, "x" if space == "input" else "")
    x = ValueDecl("x", "float16", ["N", 256], [256, 1], memory)
    y = ValueDecl("y", "float16", ["N", 256], [256, 1], Memory("output", 0, size, "y"))
    inner = ValueDecl("input", "float16", ["N", 256], [256, 1], Memory("input", 0, size, "x"))
    arguments = [Argument("map", 0, map=item), Argument("value", 1)]
    step = Step("kernel", "k", 0, [], [0], [1], [], 0, "k", [1, 1, 1], 128, 0, 1, arguments)
    values = [x, y] if space == "input" else [x, y, inner]
    return Plan(
        "sm_90", [Profile("N", 1, 4, 8)], [Binding("x", "float16", ["N", 256], 0 if space == "input" else 2)],
        [Binding("y", "float16", ["N", 256], 1)], values,
        [RegionDecl("r", "map", [], "", [], [], "hand[]", 0.0, False, 0, 0, "float16")],
        [Cubin(0, 16)], [], [step], 8192, 0, 0,
    )  # fmt: skip


SIZES = {"weights": 0, "cubins": 16, "models": 0}


@pytest.mark.parametrize("item", [PLAIN, PIXELS], ids=["plain", "pixels"])
def test_maps_within_their_value(item: TensorMapDecl) -> None:
    verify(plan(item), SIZES)
    verify(plan(item, "arena", 1024), SIZES)


BAD = {
    "no map": (None, "lacks its tensor map"),
    "past the end": (msgspec.structs.replace(PLAIN, dims=[64, "4*N + 1"]), "reaches past"),
    "longer rows": (msgspec.structs.replace(PLAIN, dims=[72, "4*N"]), "reaches past"),
    "pixels past the end": (msgspec.structs.replace(PIXELS, dims=[16, 4, 5, "N"]), "reaches past"),
    "stride": (msgspec.structs.replace(PLAIN, strides=[120]), "aligned"),
    "negative stride": (msgspec.structs.replace(PLAIN, strides=[-128]), "aligned"),
    "empty": (msgspec.structs.replace(PLAIN, dims=[0, 4]), "empty axis"),
    "axes": (msgspec.structs.replace(PLAIN, strides=[128, 128]), "one to five axes"),
    "box": (msgspec.structs.replace(PLAIN, box=[64]), "box and axes"),
    "large box": (msgspec.structs.replace(PLAIN, box=[64, 512]), "1 to 256"),
    "type": (msgspec.structs.replace(PLAIN, dtype="float128"), "type"),
    "swizzle": (msgspec.structs.replace(PLAIN, swizzle=96), "swizzle"),
    "corners": (msgspec.structs.replace(PIXELS, upper=[-1]), "corners"),
    "far corner": (msgspec.structs.replace(PIXELS, lower=[-40000, 0]), "too far"),
    "step": (msgspec.structs.replace(PIXELS, steps=[9, 1]), "step"),
    "many pixels": (msgspec.structs.replace(PIXELS, box=[16, 2048]), "too much"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_maps(name: str) -> None:
    item, reason = BAD[name]
    with pytest.raises(IngotError, match=reason):
        verify(plan(item), SIZES)


def test_unaligned_place() -> None:
    with pytest.raises(IngotError, match="aligned"):
        verify(plan(PLAIN, "arena", 1032), SIZES)


def test_value_of_another_step() -> None:
    good = plan(PLAIN)
    stray = msgspec.structs.replace(good.steps[0], reads=[], arguments=[Argument("map", 0, map=PLAIN)])
    with pytest.raises(IngotError, match="neither read nor written"):
        verify(msgspec.structs.replace(good, steps=[stray]), SIZES)


def test_only_an_argument_of_a_kernel_that_is_a_map_has_one() -> None:
    made = plan(PLAIN)
    (step,) = made.steps
    other = Argument("value", 1, map=PLAIN)
    for wrong, why in (
        (msgspec.structs.replace(step, arguments=[*step.arguments, other]), "an argument that is none"),
        (msgspec.structs.replace(step, kind="copy"), "no kernel"),
    ):
        with pytest.raises(IngotError, match=why):
            verify(msgspec.structs.replace(made, steps=[wrong]), SIZES)
