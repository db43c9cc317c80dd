"""ONNX Runtime: on the CPU, and on the GPU where its CUDA provider is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.measure.peers.offer import Offer, Peer
from ingot.measure.reference import Reference, open_session, run_session

Array = np.ndarray[Any, Any]
_NAME = "onnxruntime"


def offers(reference: Reference, feeds: Mapping[str, Array], *, gpu: bool) -> list[Offer]:
    """The CPU in FP32; with ``gpu`` also CUDA in FP32 and FP16, each as it comes and as a CUDA graph."""
    found = [Offer(_NAME, "cpu fp32", lambda: _cpu(reference, feeds))]
    if not gpu or not _has_cuda():
        return found
    return [
        Offer(_NAME, "cuda fp32", lambda: _cuda(reference.content, feeds)),
        Offer(_NAME, "cuda fp16", lambda: _cuda(_half(reference), feeds)),
        Offer(_NAME, "cuda fp16 graph", lambda: _cuda(_half(reference), feeds, graph=True)),
        Offer(_NAME, "cuda fp16 nhwc graph", lambda: _cuda(_half(reference), feeds, graph=True, nhwc=True)),
        *found,
    ]


def _has_cuda() -> bool:
    if find_spec("onnxruntime") is None:
        return False
    import onnxruntime as ort

    return "CUDAExecutionProvider" in ort.get_available_providers()


def _cpu(reference: Reference, feeds: Mapping[str, Array]) -> Peer:
    session = reference.session
    known = {value.name for value in session.get_inputs()}
    arrays = {name: array for name, array in feeds.items() if name in known}
    return Peer(lambda: session.run(None, arrays), lambda: run_session(session, feeds))


def _cuda(content: str | bytes, feeds: Mapping[str, Array], *, graph: bool = False, nhwc: bool = False) -> Peer:
    import onnxruntime as ort

    options = {"use_tf32": "0", "enable_cuda_graph": str(int(graph)), "prefer_nhwc": str(int(nhwc))}
    session = open_session(content, [("CUDAExecutionProvider", options), "CPUExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise IngotError("the CUDA provider of ONNX Runtime does not start", fix="see its log")
    names = [output.name for output in session.get_outputs()]
    known = {value.name for value in session.get_inputs()}
    binding = session.io_binding()
    kept = [
        (name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)) for name, array in feeds.items() if name in known
    ]
    for name, value in kept:
        binding.bind_ortvalue_input(name, value)
    # A graph replays addresses, so outputs get fixed ones, of the shapes that a plain session tells.
    shapes = _output_shapes(content, feeds, names)
    for name, array in shapes.items():
        value = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
        kept.append((name, value))
        binding.bind_ortvalue_output(name, value)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def outputs() -> dict[str, Array]:
        run()
        made = binding.copy_outputs_to_cpu()
        return {name: np.asarray(array) for name, array in zip(names, made, strict=True)}

    run()
    return Peer(run, outputs)


def _output_shapes(content: str | bytes, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    session = open_session(content, ["CPUExecutionProvider"])
    return {name: np.zeros_like(array) for name, array in run_session(session, feeds, names).items()}


def _half(reference: Reference) -> bytes:
    """The model in FP16 with FP32 inputs and outputs, by ONNX Runtime's own converter."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    content = reference.content
    model = onnx.load(content) if isinstance(content, str) else onnx.load_from_string(content)
    return bytes(convert_float_to_float16(model, keep_io_types=True).SerializeToString())
