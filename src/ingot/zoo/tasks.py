"""Real networks with real data, and how well they do: what precision is judged by.

Where there are labels the score is what the network is for; elsewhere it is the likeness to the float32 outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ingot.errors import IngotError
from ingot.precision.host import HostRuns
from ingot.zoo import cifar, datasets, mails, ocr
from ingot.zoo.fetch import fetch
from ingot.zoo.nets import minilm

Array = np.ndarray[Any, Any]
Outputs = Sequence[Mapping[str, Array]]
_PATCHES = 8
"""Patches of each photo for the face network."""


@dataclass(frozen=True)
class Task:
    """A network, data to calibrate it with, and samples to judge it by."""

    name: str
    model: Path | onnx.ModelProto
    input: str
    calibration: Array
    """Samples along the first axis; none of them is judged by."""
    samples: Array
    measure: str
    """What :attr:`score` is."""
    score: Callable[[Array, Array], float] | None
    """(the output over all samples, the float32 model's) to a share; None: likeness is all there is."""
    batch: int = 32
    output: str = ""
    """What is scored; the first output if left out."""


_Made = Callable[[int | None], Task]


def names() -> tuple[str, ...]:
    """Names of all tasks."""
    return tuple(_TABLE)


def task(name: str, most: int | None = None) -> Task:
    """The task ``name``, with at most ``most`` samples to judge by.

    Raises IngotError for an unknown name, or when a model or its data cannot be fetched.
    """
    if name not in _TABLE:
        raise IngotError(f"there is no task {name!r}", fix=f"take one of: {', '.join(_TABLE)}")
    return _TABLE[name](most)


def _cifar(name: str, most: int | None) -> Task:
    images, labels = datasets.cifar10("test")
    seen = cifar.normalised(datasets.cifar10("train")[0][:512])
    right = partial(_top1, labels[:most])
    return Task(name, cifar.build(name), "input", seen, cifar.normalised(images[:most]), "top-1", right, 100)


def _top1(labels: Array, scores: Array, original: Array) -> float:
    del original
    return float(np.mean(scores.argmax(axis=1) == labels))


def _ocr(most: int | None) -> Task:
    path = fetch("ocr_rec")
    lines = ocr.random_lines(most or 200)
    table = ocr.characters(path)

    def drawn(texts: Sequence[str]) -> Array:
        return np.stack([ocr.preprocess(ocr.render(text)) for text in texts])

    def score(scores: Array, original: Array) -> float:
        del original
        return float(np.mean([read == text for read, text in zip(ocr.decode(scores, table), lines, strict=True)]))

    return Task("ocr_rec", path, "x", drawn(ocr.random_lines(128, seed=1)), drawn(lines), "exact match", score, 8)


def _faces(most: int | None) -> Task:
    """R-Net on crops of faces and of other things; calibrated on patches of photos."""
    crops, face = datasets.faces()
    step = 200 // min(most or 200, 200)
    crops, face = crops[::step], face[::step]

    def score(made: Array, original: Array) -> float:
        del original
        return area_under_curve(made[:, 1], face)

    grey = np.stack([_resized(np.asarray(crop * 255, np.uint8), 24) for crop in crops])
    samples = (np.repeat(grey[..., None], 3, axis=3) - 127.5) / np.float32(128)
    patches = np.concatenate([_patches(photo, index) for index, photo in enumerate(datasets.photos())])
    seen = (patches - 127.5) / np.float32(128)
    return Task("rnet", fetch("rnet"), "input_2", seen, samples, "AUC", score, output="softmax_1")


def _patches(photo: Array, seed: int) -> Array:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(_PATCHES):
        size = int(random.integers(24, min(photo.shape[:2])))
        top, left = (int(random.integers(0, length - size + 1)) for length in photo.shape[:2])
        found.append(_resized(photo[top : top + size, left : left + size], 24))
    return np.stack(found)


def area_under_curve(scores: Array, positive: Array) -> float:
    """Share of pairs of a positive and a negative that the scores order rightly; ties count half."""
    ups, downs = scores[positive], scores[~positive]
    pairs = np.sign(ups[:, None] - downs[None, :])
    return float(np.mean((pairs + 1) / 2))


def _photos(size: int) -> tuple[Array, Array]:
    """Squares of the photos, float32 from 0 to 255: five each of fourteen to calibrate with, six others to judge by."""
    photos = datasets.photos()
    seen = [square for photo in photos[6:] for square in _squares(photo, size)]
    return np.stack(seen), np.stack([_squares(photo, size)[0] for photo in photos[:6]])


def _squares(photo: Array, size: int) -> list[Array]:
    """The middle of a photo, both ends, the mirrored middle and a close-up."""
    short = min(photo.shape[:2])
    slack = [length - short for length in photo.shape[:2]]
    cuts = [photo[int(s * slack[0]) :, int(s * slack[1]) :][:short, :short] for s in (0.5, 0.0, 1.0)]
    close = cuts[0][short // 4 : -short // 4, short // 4 : -short // 4]
    return [_resized(cut, size) for cut in (*cuts, cuts[0][:, ::-1], close)]


def _resized(image: Array, size: int) -> Array:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32)


def _nsfw(most: int | None) -> Task:
    seen, judged = (x[..., ::-1] - np.asarray([104, 117, 123], np.float32) for x in _photos(224))
    return Task("open_nsfw", fetch("open_nsfw"), "input:0", seen, judged[:most], "", None, 1)


def _detector(most: int | None) -> Task:
    seen, judged = (x.transpose(0, 3, 1, 2) / np.float32(255) for x in _photos(320))
    return Task("yolov8n", fetch("yolov8n"), "images", seen, judged[:most], "", None, 2)


def _clouds(most: int | None) -> Task:
    """The U-Net takes four bands of a satellite: photos, with their brightness for the infrared."""
    seen, judged = (
        np.concatenate([x, x.mean(axis=3, keepdims=True)], axis=3).transpose(0, 3, 1, 2) / np.float32(255)
        for x in _photos(256)
    )
    return Task("csmask_4b_l1c", fetch("csmask_4b_l1c"), "input", seen, judged[:most], "", None, 1)


def _embedded(model: onnx.ModelProto, ids: Array) -> Array:
    runs = HostRuns(model)
    return np.concatenate([runs.run({"input_ids": ids[i : i + 20]})["embedding"] for i in range(0, len(ids), 20)])


def _mails(most: int | None) -> Task:
    """Embeddings that a classifier fitted to the float32 model's tells apart."""
    model = minilm.build(minilm.read_safetensors(datasets.fetch_files(datasets.MINILM)[0]))
    (learnt, known), (seen, _), (judged, labels) = mails.encoded()
    classifier = mails.Classifier(_embedded(model, learnt), known)
    judged, labels = judged[:most], labels[:most]

    def score(made: Array, original: Array) -> float:
        del original
        return classifier.accuracy(made, labels)

    return Task("minilm_mails", model, "input_ids", seen, judged, "accuracy", score, 20)


_TABLE: dict[str, _Made] = {
    "cifar_resnet": partial(_cifar, "cifar_resnet"),
    "cifar_mobilenet": partial(_cifar, "cifar_mobilenet"),
    "ocr_rec": _ocr,
    "minilm_mails": _mails,
    "rnet": _faces,
    "open_nsfw": _nsfw,
    "yolov8n": _detector,
    "csmask_4b_l1c": _clouds,
}
