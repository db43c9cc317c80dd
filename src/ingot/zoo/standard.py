"""Standard networks at the sizes people run them at: what the library is built for and times are recorded of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.errors import IngotError, No
from ingot.options import BuildOptions, Range, Shapes
from ingot.progress import Progress, silent
from ingot.tune.library import Planned
from ingot.tune.worker import call_each
from ingot.zoo import architectures

if TYPE_CHECKING:
    import onnx

    from ingot.kernels.api import Target

CONVOLUTIONAL = (
    "resnet50", "mobilenet_v2", "efficientnet_b0", "resnet18", "resnext50", "mobilenet_v3", "convnext_t", "googlenet",
    "shufflenet_v2", "vgg16", "densenet121", "resnet34",
)  # fmt: skip
"""ResNet-101 has the layers of ResNet-50."""
TRANSFORMERS = ("bert_base", "vit_b16", "gpt2")
BATCHES = (1, 8, 32)
_FEWER = {name: {"layers": 2} for name in TRANSFORMERS}
"""Layers of a transformer are all alike: two of them have every kernel of twelve."""
_PLAN_SECONDS = 1800.0
"""For one network at all its sizes: two hundred times what it takes, for machines with other work."""


@dataclass(frozen=True)
class Setup:
    """One network at one batch size and precision."""

    name: str
    batch: int
    fp16: bool = True
    tf32: bool = False

    def __str__(self) -> str:
        return f"{self.name}-b{self.batch}-{'fp16' if self.fp16 else 'tf32' if self.tf32 else 'fp32'}"


def setups(names: Sequence[str] = (), batches: Sequence[int] = BATCHES, fp32: bool = True) -> tuple[Setup, ...]:
    """FP16 at every batch size, smallest first, and with ``fp32`` also FP32 at the smallest; all networks if no name.

    Raises IngotError for a name that is none of :func:`ingot.zoo.architectures.names`.
    """
    chosen = tuple(names) or (*CONVOLUTIONAL, *TRANSFORMERS)
    for name in chosen:
        architectures.sizes_of(name)
    found = [Setup(name, batch) for batch in sorted(set(batches)) for name in chosen]
    if fp32:
        found += [Setup(name, min(batches), fp16=False) for name in chosen]
    return tuple(found)


def model_of(setup: Setup) -> tuple[onnx.ModelProto, Shapes]:
    """The network with as many layers as it takes to have every kernel, and its inputs' shapes."""
    model = _network(setup.name)
    return model, _shapes(model, setup.batch)


def _network(name: str) -> onnx.ModelProto:
    return architectures.build(name, **_FEWER.get(name, {}))


def _shapes(model: onnx.ModelProto, batch: int) -> Shapes:
    arrays = architectures.sample_inputs(model, batch)
    return tuple((name, tuple(Range(d, d, d) for d in array.shape)) for name, array in arrays.items())


def options_of(setup: Setup, target: str, shapes: Shapes, level: int) -> BuildOptions:
    """How ``ingot build`` would be told."""
    return BuildOptions(target=target, fp16=setup.fp16, tf32=setup.tf32, shapes=shapes, opt_level=level)


def plan(wanted: Sequence[Setup], target: Target, level: int, per_layer: int | None = None) -> list[list[Planned]]:
    """What a build of each of ``wanted``, setups of one network, would measure; the network is made once.

    Raises IngotError where nothing of it runs on a GPU.
    """
    from ingot.builder.api import lower_model
    from ingot.kernels.table import TACTICS
    from ingot.tune.database import recorded
    from ingot.tune.library import planned

    found: list[list[Planned]] = []
    known = recorded(target)
    model = _network(wanted[0].name)
    for setup in wanted:
        options = options_of(setup, target.name, _shapes(model, setup.batch), level)
        lowered = lower_model(model, target, options)
        if isinstance(lowered, No):
            raise IngotError(f"nothing of it runs on a GPU: {lowered.reason}", node=str(setup))
        regions = [(region, lowered.bindings()) for region in lowered.regions]
        found.append(planned(regions, target, TACTICS, level=level, known=known, per_layer=per_layer))
    return found


def plans(
    wanted: Sequence[Setup],
    target: Target,
    level: int,
    jobs: int,
    progress: Progress = silent,
    per_layer: int | None = None,
) -> list[list[Planned]]:
    """:func:`plan` of every setup, in their order, in ``jobs`` processes that share the networks.

    Raises IngotError with the reason where one fails.
    """
    networks: dict[str, list[Setup]] = {}
    for setup in wanted:
        networks.setdefault(setup.name, []).append(setup)
    found: dict[Setup, list[Planned]] = {}
    work = [(setups, target, level, per_layer) for setups in networks.values()]
    with closing(call_each(f"{__name__}:plan", work, jobs=jobs, timeout=_PLAN_SECONDS)) as answers:
        for (name, setups), answer in zip(networks.items(), answers, strict=True):
            if isinstance(answer, No):
                raise IngotError(answer.reason, node=name)
            found |= zip(setups, answer, strict=True)
            progress("tactics", len(found), len(wanted))
    return [found[setup] for setup in wanted]
