"""The standard networks that the library is built for."""

from __future__ import annotations

import pytest

from ingot.builder.targets import gpu_target
from ingot.errors import IngotError
from ingot.tune import library
from ingot.zoo import architectures, standard
from ingot.zoo.standard import Setup


def test_setups_cover_ten_cnns_and_three_transformers() -> None:
    assert len(standard.CONVOLUTIONAL) >= 10 and len(standard.TRANSFORMERS) >= 3
    assert {*standard.CONVOLUTIONAL, *standard.TRANSFORMERS} <= set(architectures.names())
    wanted = standard.setups()
    assert len(wanted) == 15 * 3 + 15 and [s.batch for s in wanted[:15]] == [1] * 15
    assert str(wanted[0]) == "resnet50-b1-fp16" and str(wanted[-1]).endswith("-b1-fp32")
    assert standard.setups(["vgg16"], (8, 1), fp32=False) == (Setup("vgg16", 1), Setup("vgg16", 8))
    with pytest.raises(IngotError, match="no architecture"):
        standard.setups(["resnet"])


def test_plans_are_made_in_processes_and_in_order() -> None:
    target = gpu_target("sm_80")
    wanted = [Setup("mobilenet_tiny", 2), Setup("bert_tiny", 1), Setup("mobilenet_tiny", 2, fp16=False)]
    parts = standard.plans(wanted, target, 3, 2)
    (here,) = standard.plan(wanted[:1], target, 3)
    names = [[str(item.task.variant) for item in part] for part in parts]
    assert names[0] == [str(item.task.variant) for item in here] and all(names)
    assert {"GEMM", "attention-ready GEMM", "attention", "reduction"} <= {item.family for item in parts[1]}
    assert {"convolution", "GEMM"} <= {item.family for item in parts[0]}  # its depthwise layers are in joined blocks
    assert "depthwise convolution" in {item.family for item in parts[2]}
    assert {item.task.region.spec_of["v0"].dtype for item in parts[2]} <= {"float32"}
    assert len(library.distinct(parts)) > len(parts[0]) + len(parts[2])  # types differ, so do their Regions


def test_a_network_that_fails_is_named() -> None:
    with pytest.raises(IngotError) as caught:
        standard.plans([Setup("mobilenet_tiny", 1), Setup("nonsense", 1)], gpu_target("sm_80"), 3, 1)
    assert caught.value.node == "nonsense"
