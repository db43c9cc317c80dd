"""LinearAttention as steps, against ONNX's own definition."""

from __future__ import annotations

import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.passes.decompose import decompose


def network(
    rule: str,
    *,
    steps: int = 3,
    queries: int = 4,
    keys: int = 2,
    past: bool = False,
    decay: int = 0,
    beta: int = 0,
    scale: float = 0.0,
) -> Net:
    """Batch 2; heads of 3 numbers, values of 5. ``decay`` and ``beta``: numbers for each step, or none."""
    net = Net(opset=27)
    operands = [
        net.input("query", [2, steps, 3 * queries]),
        net.input("key", [2, steps, 3 * keys]),
        net.input("value", [2, steps, 5 * keys]),
        net.input("past", [2, keys, 3, 5]) if past else "",
        net.input("decay", [2, steps, decay]) if decay else "",
        net.input("beta", [2, steps, beta]) if beta else "",
    ]
    attributes = {"q_num_heads": queries, "kv_num_heads": keys, "update_rule": rule, "scale": scale}
    return net.output(*net.op("LinearAttention", *operands, outputs=2, **attributes))


CASES = {
    "linear": network("linear"),
    "linear with a past": network("linear", past=True, scale=0.7),
    "gated": network("gated", decay=6, past=True),
    "gated by head": network("gated", decay=2),
    "delta": network("delta", beta=2),
    "delta with one rate": network("delta", beta=1, past=True),
    "gated delta": network("gated_delta", decay=6, beta=2, past=True),
    "decoding": network("gated_delta", steps=1, decay=2, beta=2, past=True),
    "one head of keys": network("gated_delta", keys=1, decay=3, beta=1),
}


@pytest.mark.parametrize("name", CASES)
def test_steps(name: str) -> None:
    model, notes = rewritten(CASES[name], decompose)
    assert notes == ["1 LinearAttention in terms of other ops"]
    assert all(kind_of(node.op_type, node.domain) is not Kind.HOST for node in model.graph), kinds(model)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (network("linear", steps=33), "33 steps; up to 32"),
        (network("linear", keys=3), "heads do not fit"),
        (network("delta"), "an operand that its rule needs is absent"),
    ],
)
def test_what_stays(net: Net, reason: str) -> None:
    model = net.model()
    (note,) = decompose(model)
    assert reason in note and kinds(model)["LinearAttention"] == 1
