"""Written lists of benchmark rows: the ones whose results are published."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.errors import IngotError


@dataclass(frozen=True)
class Row:
    """One row, as one would write it after ``ingot bench``."""

    name: str
    model: str
    shapes: tuple[str, ...] = ()
    fp16: bool = False
    eight: str = ""
    """``int8`` or ``fp8``: 8-bit layers, calibrated with the zoo's samples."""
    target: str = "auto"
    against: tuple[str, ...] = ("onnxruntime",)


def _half(name: str, model: str, *shapes: str, torch: bool = False) -> Row:
    """On the GPU in FP16."""
    return Row(name, f"zoo:{model}", shapes, fp16=True, target="cuda", against=("torch",) if torch else ())


def _pictures(model: str, *batches: int, size: int = 224) -> tuple[Row, ...]:
    return tuple(_half(f"{model}-b{n}", model, f"input={n}x3x{size}x{size}", torch=True) for n in batches)


def _bert(*batches: int, seq: int = 128) -> tuple[Row, ...]:
    return tuple(
        _half(f"bert_base-b{n}", "bert_base", f"input_ids={n}x{seq}", f"attention_mask={n}x{seq}", torch=True)
        for n in batches
    )


def _real(name: str, model: str, tensor: str, shape: str) -> tuple[Row, ...]:
    """Batch 1 and 8."""
    return tuple(_half(f"{name}-b{n}", model, f"{tensor}={n}x{shape}", torch=True) for n in (1, 8))


def _eight(row: Row) -> tuple[Row, ...]:
    """The same in INT8 and in FP8, beside FP16."""
    return tuple(replace(row, name=f"{row.name}-{eight}", eight=eight, against=("fp16",)) for eight in ("int8", "fp8"))


_EIGHT = tuple(
    eight
    for row in (
        *_pictures("resnet50", 1, 8, 128, 256), *_pictures("mobilenet_v2", 32),
        _half("yolov8n_640-b8", "yolov8n", "images=8x3x640x640"), *_bert(8),
    )
    for eight in _eight(row)
)  # fmt: skip

_H200 = (
    *_pictures("resnet50", 1, 8, 128),
    *_bert(1, 8, 32),
    *_pictures("mobilenet_v2", 1, 32),
    *_pictures("efficientnet_b0", 1, 32),
    *_pictures("vit_b16", 1, 32),
    *_real("yolov8n_320", "yolov8n", "images", "3x320x320"),
    *_real("yolov8n_640", "yolov8n", "images", "3x640x640"),
    *_real("ocr_det", "ocr_det", "x", "3x640x640"),
    *_real("ocr_rec", "ocr_rec", "x", "3x48x320"),
    *_real("open_nsfw", "open_nsfw", "input:0", "224x224x3"),
    *_real("unet", "csmask_4b_l1c", "input", "4x256x256"),
    Row("nsnet2-b32", "zoo:nsnet2_16k", ("input=32x100x161",), fp16=True, target="cuda"),
)

_ZOO_PICTURES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnext50", "mobilenet_v2", "mobilenet_v3", "efficientnet_b0",
    "vgg16", "densenet121", "shufflenet_v2", "convnext_t", "googlenet", "vit_b16",
)  # fmt: skip


def _zoo(batch: int) -> tuple[Row, ...]:
    """Every standard network at one batch size, without peers: for times of their layers within minutes."""
    pictures = tuple(_half(f"{name}-b{batch}", name, f"input={batch}x3x224x224") for name in _ZOO_PICTURES)
    tokens = f"input_ids={batch}x128"
    return (
        *pictures,
        _half(f"bert_base-b{batch}", "bert_base", tokens, f"attention_mask={batch}x128"),
        _half(f"gpt2-b{batch}", "gpt2", tokens),
    )


_ZOO = (*_zoo(1), *_zoo(8), *_zoo(32))

_CPU_MODELS = (
    "ocr_det", "ocr_rec", "ocr_cls", "yolov8n", "open_nsfw", "pnet", "rnet", "onet", "slanet_plus", "csmask_4b_l1c",
    "silero_vad", "silero_vad_16k_op15", "silero_vad_op18_ifless", "nsnet2_16k", "nsnet2_48k", "wake_melspectrogram",
    "wake_embedding", "wake_alexa", "magika",
)  # fmt: skip

_CPU = tuple(Row(f"{name}-cpu", f"zoo:{name}", target="cpu") for name in _CPU_MODELS)

_TINY = tuple(
    Row(f"{name}-cpu", f"zoo:{name}", target="cpu")
    for name in ("resnet_tiny", "mobilenet_tiny", "efficientnet_tiny", "bert_tiny", "vit_tiny")
)

SUITES: dict[str, tuple[Row, ...]] = {"h200": _H200, "eight": _EIGHT, "zoo": _ZOO, "cpu": _CPU, "tiny": _TINY}


def suite(name: str, only: str = "") -> tuple[Row, ...]:
    """The rows of a suite that ``only`` names: parts of names, with commas; a whole name means that row alone.

    Raises IngotError for an unknown suite or when no row is left.
    """
    if name not in SUITES:
        raise IngotError(f"there is no suite {name!r}", fix=f"take one of: {', '.join(SUITES)}")
    rows, parts = SUITES[name], [part for part in only.split(",") if part]
    names = {row.name for row in rows}
    chosen = tuple(row for row in rows if not parts or any(_names(part, row.name, names) for part in parts))
    if not chosen:
        raise IngotError(f"no row of {name} contains {only!r}", fix=f"its rows are {', '.join(sorted(names))}")
    return chosen


def _names(part: str, row: str, names: set[str]) -> bool:
    return part == row if part in names else part in row
