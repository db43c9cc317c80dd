"""PyTorch: the module of the same architecture with random weights of its own, or the model itself by onnx2torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.measure.peers.offer import Offer, Peer

Array = np.ndarray[Any, Any]
_NAME = "torch"
_NOTE = "random weights of its own: only speed is compared"
_CONVERTED = "made from the same model by onnx2torch"
_VISION = {
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenet_v2",
    "efficientnet_b0": "efficientnet_b0",
    "vit_b16": "vit_b_16",
}
"""Architecture to constructor in torchvision."""
_WARM = 3
"""Runs before a capture, in which cuDNN and cuBLAS choose and allocate."""


@dataclass(frozen=True)
class Subject:
    """What PyTorch is to run."""

    architecture: str = ""
    """One of its libraries' own; empty for the model in ``content``."""
    content: str | bytes | None = None
    """Path or bytes of an ONNX model, which onnx2torch makes a module of; without it there must be an architecture."""
    outputs: tuple[str, ...] = ()
    """Names of the model's outputs, in its order."""


@dataclass(frozen=True)
class _Form:
    """How the module runs."""

    gpu: bool
    half: bool = False
    graph: bool = False
    compiled: bool = False


def offers(subject: Subject, feeds: Mapping[str, Array], *, gpu: bool) -> list[Offer]:
    """Eager in FP32; with ``gpu`` also FP16 in channels-last order, eager and as a CUDA graph."""
    found = [_offer(subject, feeds, "eager fp32", _Form(gpu))]
    if gpu:
        found += [
            _offer(subject, feeds, "eager fp16 nhwc", _Form(True, half=True)),
            _offer(subject, feeds, "fp16 nhwc graph", _Form(True, half=True, graph=True)),
        ]
    return found


def compiled(subject: Subject, feeds: Mapping[str, Array], *, gpu: bool) -> list[Offer]:
    """``torch.compile`` with CUDA graphs, in FP16 on a GPU: it builds for a minute or more."""
    name = "compile fp16 nhwc" if gpu else "compile fp32"
    return [_offer(subject, feeds, name, _Form(gpu, half=gpu, compiled=True))]


def _offer(subject: Subject, feeds: Mapping[str, Array], variant: str, form: _Form) -> Offer:
    return Offer(_NAME, variant, lambda: _peer(subject, feeds, form))


def _peer(subject: Subject, feeds: Mapping[str, Array], form: _Form) -> Peer:
    torch = _torch()
    if form.gpu and not torch.cuda.is_available():
        raise IngotError("this PyTorch sees no GPU", fix="install a CUDA build of PyTorch")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = form.half
    module = _module(subject, feeds).eval().requires_grad_(False)
    placed = {"device": "cuda" if form.gpu else "cpu"} | ({"dtype": torch.float16} if form.half else {})
    module = module.to(**placed, memory_format=torch.channels_last if form.half else torch.preserve_format)
    if form.compiled:
        module = torch.compile(module, mode="reduce-overhead")
    arguments = {name: _tensor(torch, array, placed, form.half) for name, array in feeds.items()}
    call = _call(torch, module, arguments, named=bool(subject.architecture) and subject.architecture not in _VISION)
    if form.graph:
        call = _captured(torch, call)
    wait = torch.cuda.synchronize if form.gpu else _nothing

    def run() -> None:
        call()
        wait()

    run()
    if subject.architecture:
        return Peer(run, note=_NOTE)
    return Peer(run, lambda: _arrays(call(), subject.outputs), note=_CONVERTED)


def _arrays(results: Any, names: Sequence[str]) -> dict[str, Array]:
    """NumPy arrays of a module's results, 16-bit ones as float32."""
    listed = results if isinstance(results, tuple | list) else [results]
    floats = [result.float() if result.is_floating_point() else result for result in listed]
    return {name: value.cpu().numpy() for name, value in zip(names, floats, strict=True)}


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError:
        raise IngotError("PyTorch is not installed", fix="pip install torch, or compare with onnxruntime") from None


def _module(subject: Subject, feeds: Mapping[str, Array]) -> Any:
    architecture = subject.architecture
    try:
        if not architecture:
            return _converted(subject, feeds)
        if architecture in _VISION:
            return getattr(import_module("torchvision.models"), _VISION[architecture])(weights=None)
        if architecture == "bert_base":
            library = import_module("transformers")
            return library.BertModel(library.BertConfig())
    except ImportError as error:
        raise IngotError(f"its module library cannot be imported: {error}", fix="install it, or repair it") from None
    raise IngotError(f"PyTorch's libraries have no module like {architecture}", fix="compare with onnxruntime")


def _converted(subject: Subject, feeds: Mapping[str, Array]) -> Any:
    """onnx2torch wants constants as initializers and shapes that are known: the model is folded for these inputs."""
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass
    from onnxscript import optimizer

    content = subject.content
    if content is None:
        raise IngotError("there is no PyTorch module for this model", fix="give the original model (--model)")
    library = import_module("onnx2torch")
    model = onnx_ir.from_proto(onnx.load(content) if isinstance(content, str) else onnx.load_model_from_string(content))
    for value in model.graph.inputs:
        if value.name is not None and value.name in feeds:
            value.shape = onnx_ir.Shape(feeds[value.name].shape)
    optimizer.optimize(model, input_size_limit=1 << 30, output_size_limit=1 << 30)
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    return library.convert(onnx_ir.to_proto(model))


def _tensor(torch: Any, array: Array, placed: Mapping[str, Any], half: bool) -> Any:
    tensor = torch.from_numpy(array).to(placed["device"])
    if half and array.dtype.kind == "f":
        tensor = tensor.to(torch.float16)
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
        outputs = call()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def _nothing() -> None:
    """On the CPU a call returns when it is done."""
