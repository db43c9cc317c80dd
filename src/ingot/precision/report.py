"""What quantization did and how well, as data: ``msgspec`` writes it as JSON, the command line as tables."""

from __future__ import annotations

import msgspec


class LayerReport(msgspec.Struct, frozen=True):
    """One layer, or one residual add."""

    name: str
    op: str
    precision: str
    """``int8``, ``fp8`` or ``float``: what the build makes of the rest (float32 or float16)."""
    why: str
    """Why it has this precision."""
    method: str = ""
    """Calibration method of its input."""
    threshold: float = 0.0
    """Largest number of its input that is not clipped."""
    largest: float = 0.0
    """Largest magnitude that was seen of its input."""
    scale: float = 0.0
    stored: str = ""
    """How its input is stored: ``int8``, ``uint8`` where it is never negative, or ``fp8``."""
    sqnr_db: float | None = None
    """Signal to noise of its result in the quantized model, errors of earlier layers included."""
    cosine: float | None = None
    alone_db: float | None = None
    """Signal to noise of the model's outputs with this layer alone quantized, where it was measured."""
    micros: dict[str, float] = {}
    """Microseconds of it by precision, where they decided (``--best``)."""


class Trial(msgspec.Struct, frozen=True):
    """One way that was tried, and its error on the sample."""

    what: str
    sqnr_db: float
    """Of the outputs."""
    taken: bool


class Report(msgspec.Struct, frozen=True):
    """Everything there is to say about one quantization."""

    precision: str
    """``int8``, ``fp8``, or ``best`` where each layer has its own."""
    samples: int
    """Calibration samples."""
    method: str
    equalised: int
    """Activations whose channels were evened out."""
    bias_corrected: bool
    metric: str
    budget: float | None
    """Loss that was allowed."""
    score: float | None
    """Of the original model, by the metric."""
    loss: float | None
    """What the quantized model loses of it."""
    evaluated: int
    """Samples of the evaluation."""
    output_sqnr_db: float | None
    quantized: int
    """Layers in 8 bits."""
    given_back: int
    """Layers that stay as they are for the sake of accuracy."""
    layers: list[LayerReport]
    trials: list[Trial]
    notes: list[str]
    calibrated_on: str = ""
    """``CPU``, the name of a GPU, or ``calibration cache``."""

    @property
    def within_budget(self) -> bool:
        """Whether the loss is allowed, as far as both are known."""
        return self.loss is None or self.budget is None or self.loss <= self.budget
