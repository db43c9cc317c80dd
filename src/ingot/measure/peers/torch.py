"""PyTorch: the module of the same architecture, with random weights of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.measure.peers.offer import Offer, Peer

Array = np.ndarray[Any, Any]
_NAME = "torch"
_NOTE = "random weights of its own: only speed is compared"
_VISION = {
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenet_v2",
    "efficientnet_b0": "efficientnet_b0",
    "vit_b16": "vit_b_16",
}
"""Architecture to constructor in torchvision."""
_WARM = 3
"""Runs before a capture, in which cuDNN and cuBLAS choose and allocate."""


def offers(architecture: str, feeds: Mapping[str, Array], *, gpu: bool) -> list[Offer]:
    """Eager in FP32; with ``gpu`` also FP16 in channels-last order, eager and as a CUDA graph."""
    found = [Offer(_NAME, "eager fp32", lambda: _peer(architecture, feeds, gpu=gpu))]
    if gpu:
        found += [
            Offer(_NAME, "eager fp16 nhwc", lambda: _peer(architecture, feeds, gpu=True, half=True)),
            Offer(_NAME, "fp16 nhwc graph", lambda: _peer(architecture, feeds, gpu=True, half=True, graph=True)),
        ]
    return found


def _peer(architecture: str, feeds: Mapping[str, Array], *, gpu: bool, half: bool = False, graph: bool = False) -> Peer:
    torch = _torch()
    if gpu and not torch.cuda.is_available():
        raise IngotError("this PyTorch sees no GPU", fix="install a CUDA build of PyTorch")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = half
    module = _module(architecture).eval().requires_grad_(False)
    placed = {"device": "cuda" if gpu else "cpu", "dtype": torch.float16 if half else torch.float32}
    module = module.to(**placed, memory_format=torch.channels_last if half else torch.preserve_format)
    arguments = {name: _tensor(torch, array, placed, half) for name, array in feeds.items()}
    call = _call(torch, module, arguments, named=architecture not in _VISION)
    if graph:
        call = _captured(torch, call)
    wait = torch.cuda.synchronize if gpu else _nothing

    def run() -> None:
        call()
        wait()

    run()
    return Peer(run, note=_NOTE)


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError:
        raise IngotError("PyTorch is not installed", fix="pip install torch, or compare with onnxruntime") from None


def _module(architecture: str) -> Any:
    try:
        if architecture in _VISION:
            return getattr(import_module("torchvision.models"), _VISION[architecture])(weights=None)
        if architecture == "bert_base":
            library = import_module("transformers")
            return library.BertModel(library.BertConfig())
    except ImportError as error:
        raise IngotError(f"its module library cannot be imported: {error}", fix="install it, or repair it") from None
    raise IngotError(f"PyTorch's libraries have no module like {architecture}", fix="compare with onnxruntime")


def _tensor(torch: Any, array: Array, placed: Mapping[str, Any], half: bool) -> Any:
    tensor = torch.from_numpy(array).to(placed["device"])
    if array.dtype.kind == "f":
        tensor = tensor.to(placed["dtype"])
    if half and tensor.dim() == 4:
        tensor = tensor.to(memory_format=torch.channels_last)
    return tensor


def _call(torch: Any, module: Any, arguments: Mapping[str, Any], *, named: bool) -> Callable[[], object]:
    values = tuple(arguments.values())

    def call() -> object:
        with torch.inference_mode():
            return module(**arguments) if named else module(*values)

    return call


def _captured(torch: Any, call: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay(_: object = kept) -> None:  # the outputs live as long as the graph
        graph.replay()

    return replay


def _nothing() -> None:
    """On the CPU a call returns when it is done."""
