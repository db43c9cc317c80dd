"""Sibling convolutions become one where that saves time; the others stay, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.quantized_models import QuantizedNet
from support.real_models import real_model
from support.rewrites import Net, kinds, rewritten

from ingot.builder.api import build_engine, build_hollow, lower_model
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.importer.load import import_model
from ingot.kernels.api import Target
from ingot.options import BuildOptions, parse_shapes
from ingot.passes.pipeline import canonicalise
from ingot.passes.siblings import join_convolutions
from ingot.simulate.simulator import Simulator

Tail = Callable[[Net, str, int], str]


def conv(net: Net, x: str, read: int, made: int, size: int = 3, *, bias: bool = True, **attributes: object) -> str:
    """A convolution that keeps the size at stride 1."""
    weight = net.normal(made, read, size, size, scale=(read * size * size) ** -0.5)
    inputs = [x, weight, *([net.normal(made)] if bias else [])]
    return str(net.op("Conv", *inputs, **{"pads": [size // 2] * 4, **attributes}))


def silu(net: Net, x: str, channels: int) -> str:
    return str(net.op("Mul", x, net.op("Sigmoid", x)))


def sloped(net: Net, x: str, channels: int) -> str:
    shifted = net.op("Add", net.normal(channels, 1, 1), net.op("PRelu", x, net.normal(channels, 1, 1)))
    return str(net.op("Mul", shifted, net.const(0.5)))


TAILS: dict[str, Tail] = {
    "nothing": lambda net, x, channels: x,
    "relu": lambda net, x, channels: str(net.op("Relu", x)),
    "silu": silu,
    "clip": lambda net, x, channels: str(net.op("Clip", x, net.const(0.0), net.const(6.0))),
    "leaky": lambda net, x, channels: str(net.op("LeakyRelu", x, alpha=0.2)),
    "sloped": sloped,
}


def siblings(tails: list[Tail], widths: list[int], attributes: list[dict[str, object]] | None = None) -> Net:
    """A convolution whose result several others read, each followed by another."""
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 16, 12, 12]), 16, 32))
    for tail, width, given in zip(tails, widths, attributes or [{}] * len(widths), strict=True):
        net.output(conv(net, tail(net, conv(net, x, 32, width, **given), width), width, 8))  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize("name", TAILS)
def test_alike_behind_one_value(name: str) -> None:
    net = siblings([TAILS[name]] * 3, [32, 16, 48])
    before = kinds(net.model())
    model, notes = rewritten(net, join_convolutions)
    ops = kinds(model)
    assert notes == ["3 convolutions joined with others that read the same value"]
    assert ops["Conv"] == before["Conv"] - 2 and ops["Split"] == 1
    assert all(ops[op] == count // 3 for op, count in before.items() if op not in ("Conv", "Relu"))


def test_a_missing_bias_is_zero_and_strides_may_be_any() -> None:
    given: list[dict[str, object]] = [{"bias": bias, "strides": [2, 1], "dilations": [1, 2]} for bias in (True, False)]
    model, _ = rewritten(siblings([silu] * 2, [16, 32], given), join_convolutions)
    assert kinds(model)["Conv"] == 4


def test_those_that_are_alike_are_joined_beside_others() -> None:
    tails = [TAILS[name] for name in ("relu", "silu", "relu", "nothing", "silu")]
    model, notes = rewritten(siblings(tails, [16, 16, 32, 16, 32]), join_convolutions)
    assert kinds(model)["Conv"] == 1 + 3 + 5 and kinds(model)["Split"] == 2
    assert notes == [
        "4 convolutions joined with others that read the same value",
        "n12 stays apart from others: the arithmetic behind them differs",
    ]


REFUSED: dict[str, tuple[list[str], list[dict[str, object]], str]] = {
    "kernel": (["relu", "relu"], [{}, {"size": 1}], "kernels are of different sizes"),
    "strides": (["relu", "relu"], [{}, {"strides": [2, 2]}], "strides differ"),
    "dilations": (["relu", "relu"], [{}, {"dilations": [2, 2], "pads": [2] * 4}], "dilations differ"),
    "pads": (["relu", "relu"], [{}, {"pads": [0] * 4}], "pads differ"),
    "automatic": (["relu", "relu"], [{"pads": [0] * 4}, {"auto_pad": "SAME_UPPER"}], "pads differ"),
    "activation": (["relu", "nothing"], [{}, {}], "arithmetic behind them differs"),
    "slope": (["leaky", "relu"], [{}, {}], "arithmetic behind them differs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_differs_stays_apart(name: str) -> None:
    tails, attributes, reason = REFUSED[name]
    net = siblings([TAILS[tail] for tail in tails], [16, 16], attributes)
    for node in net.nodes:
        automatic = any(attribute.name == "auto_pad" for attribute in node.attribute)
        for pads in [a for a in node.attribute if a.name == "pads" and automatic]:
            node.attribute.remove(pads)
    model, notes = rewritten(net, join_convolutions)
    assert kinds(model) == kinds(net.model()) and len(notes) == 1 and reason in notes[0]


def test_results_that_are_wanted_by_themselves_stay_apart() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", [1, 16, 12, 12]), 16, 32))
    parts = [net.op("Relu", conv(net, x, 32, 16)) for _ in range(2)]
    net.output(net.op("Concat", *parts, axis=1), net.op("Add", conv(net, x, 32, 16), parts[0]), conv(net, x, 32, 16))
    model, notes = rewritten(net, join_convolutions)
    assert kinds(model) == kinds(net.model())
    assert any("(Concat)" in note for note in notes) and any("an output of the model" in note for note in notes)
    assert any("(Add, Concat)" in note for note in notes)


def test_groups_odd_channels_and_weights_of_others_stay_apart() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", [1, 16, 12, 12]), 16, 32))
    fed = net.op("Conv", x, net.input("w", [16, 32, 3, 3]), pads=[1] * 4)
    grouped = net.op("Conv", x, net.normal(32, 1, 3, 3), group=32, pads=[1] * 4)
    for part, channels in ((fed, 16), (grouped, 32), (conv(net, x, 32, 12), 12), (conv(net, x, 32, 16), 16)):
        net.output(conv(net, net.op("Relu", part), channels, 8))
    model, notes = rewritten(net, join_convolutions)
    assert kinds(model) == kinds(net.model())
    assert {note.split(": ")[1] for note in notes} == {
        "weights that are not constant", "channels in groups", "channels that are no multiple of 8"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "read", "widths", "kernel", "joined"),
    [(64, 8, [8] * 3, 1, True), (1024, 8, [8] * 3, 1, False), (40, 64, [64, 80], 3, True),
     (320, 64, [64, 80], 3, False), (320, 64, [64, 64], 3, True)],
)  # fmt: skip
def test_large_images_show_what_joining_costs(
    size: int, read: int, widths: list[int], kernel: int, joined: bool
) -> None:
    """Sectors of memory that parts share, and channels that fill no block."""
    net = Net()
    x = net.op("Relu", net.input("x", [1, read, size, size]))
    net.output(*(net.op("GlobalAveragePool", conv(net, x, read, width, kernel)) for width in widths))
    (note,) = join_convolutions(import_model(net.proto()).model)
    assert note.startswith(f"{len(widths)} convolutions joined") if joined else "one kernel for all would take" in note


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", ["silu", "relu"])
def test_parts_are_read_where_they_lie(name: str, fp16: bool) -> None:
    """No copies, one kernel for both convolutions and what is behind them; results are ONNX Runtime's."""
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 8, 20, 20]), 8, 32))
    first, second, third = (TAILS[name](net, conv(net, x, 32, width), width) for width in (32, 48, 16))
    pooled = net.op("MaxPool", second, kernel_shape=[2, 2], strides=[2, 2])
    spread = net.op("Conv", third, net.normal(16, 1, 3, 3), group=16, pads=[1] * 4)
    net.output(
        conv(net, first, 32, 16), conv(net, pooled, 48, 8, 1), spread, net.op("GlobalAveragePool", second),
        conv(net, second, 48, 16, 1, strides=[2, 2]),
    )  # fmt: skip
    model = net.proto()
    options = BuildOptions("sm_90", fp16=fp16, shapes=parse_shapes(["x=1x8x20x20:2x8x20x20:4x8x20x20"]), opt_level=0)
    lowered = lower_model(model, Target(90), options)
    assert isinstance(lowered, Lowered) and not lowered.reasons
    copies = [region for region in lowered.regions if region.name.startswith("copy:")]
    assert all(region.inputs[0] in lowered.inputs or region.outputs[0] in lowered.outputs for region in copies)
    (whole,) = {w.parent for n, w in lowered.windows.items() if n.endswith("/part")}
    made = next(region for region in lowered.regions if whole in region.outputs)
    assert made.kind is Kind.CONV and len(made.ops) == (3 if name == "silu" else 2)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 8, 20, 20)).astype(np.float32)}
    found = Simulator(build_hollow(model, options)).run(feeds)
    wanted = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    for made_, right in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(made_, right, rtol=0, atol=(4e-3 if fp16 else 1e-5) * max(np.abs(right).max(), 1))


def test_quantized_siblings_stay_as_they_are() -> None:
    net = QuantizedNet()
    x = net.quantized("x", 0.05)
    parts = [net.quantized(net.node("Relu", net.conv(x, (16, 8, 3, 3))), 0.04 + 0.01 * i) for i in range(2)]
    model = net.model({"x": [1, 8, 10, 10]}, *(net.conv(part, (8, 16, 3, 3)) for part in parts))
    canonical = canonicalise(import_model(model).model, fp16=False)
    assert kinds(canonical.model)["Conv"] == 4 and kinds(canonical.model)["Split"] == 0
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 10, 10)).astype(np.float32)}
    wanted = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    found = Simulator(build_hollow(model, BuildOptions("sm_90", opt_level=0))).run(feeds)
    for made, right in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(made, right, atol=0.02)


def test_it_can_be_dumped(tmp_path: Path) -> None:
    model = siblings([silu] * 2, [32, 48]).proto()
    shapes = parse_shapes(["x=1x16x12x12"])
    build_engine(model, BuildOptions("sm_90", opt_level=0, shapes=shapes, dump_after=("siblings",), dump_dir=tmp_path))
    (file,) = tmp_path.glob("*-siblings.onnx")
    assert sum(node.op_type == "Split" for node in onnx.load(file).graph.node) == 1


@pytest.mark.models
def test_the_heads_of_a_detector() -> None:
    """Boxes and classes of each of three scales begin with one convolution."""
    model = canonicalise(import_model(real_model("yolov8n"), any_size=True).model, fp16=True).model
    found = []
    for node in model.graph:
        if node.op_type == "Split" and "/joined" in str(node.inputs[0].name if node.inputs[0] else ""):
            readers = [use.node.name for part in node.outputs for use in part.uses()]
            found.append(([part.shape[1] for part in node.outputs if part.shape is not None], readers))
    names = [[f"/model.22/{head}.{scale}/{head}.{scale}.1/conv/Conv" for head in ("cv2", "cv3")] for scale in range(3)]
    assert found == [([64, 64], pair) for pair in names]


def random_net(seed: int) -> Net:
    """Three layers of convolutions, each reading any value before it; poolings, sums and concats between them."""
    random = np.random.default_rng(seed)
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 8, 13, 12]), 8, 16))
    values, read = [(x, 16)], set[str]()
    for _ in range(int(random.integers(5, 11))):
        name, channels = values[int(random.integers(max(0, len(values) - 4), len(values)))]
        width = int(random.choice([8, 16, 24, 40]))
        made = conv(net, name, channels, width, int(random.choice([1, 3, 3, 3])), bias=bool(random.integers(2)))
        made = TAILS[str(random.choice(["relu", "silu", "silu", "sloped"]))](net, made, width)
        read.add(name)
        same = [value for value, count in values if count == width and value != x]
        match int(random.integers(9)):
            case 0 if same:
                made = net.op("Add", made, same[0])
                read.add(same[0])
            case 1:
                made = net.op("MaxPool", made, kernel_shape=[3, 3], pads=[1] * 4)
            case 2 if same:
                made, width = net.op("Concat", same[-1], made, axis=1), 2 * width
                read.add(same[-1])
            case _:
                pass
        values.append((made, width))
    return net.output(*(net.op("GlobalAveragePool", name) for name, _ in values if name not in read))


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int) -> None:
    model = random_net(seed).proto()
    options = BuildOptions("sm_90", shapes=parse_shapes(["x=1x8x13x12:2x8x13x12:3x8x13x12"]), opt_level=0)
    feeds = {"x": np.random.default_rng(seed).standard_normal((2, 8, 13, 12)).astype(np.float32)}
    engine = build_hollow(model, options)
    assert {step.kind for step in engine.plan.steps} == {"kernel"}
    found = Simulator(engine).run(feeds, seed=seed)
    wanted = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    for made, right in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(made, right, rtol=0, atol=1e-5 * max(np.abs(right).max(), 1))
