"""Sentences to vectors: tokens, trained weights, the classifier over them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.precision.host import HostRuns
from ingot.zoo import datasets, mails
from ingot.zoo.fetch import DownloadFailed
from ingot.zoo.nets import minilm
from ingot.zoo.tasks import task
from ingot.zoo.wordpiece import WordPiece

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##s", "un", "##afford", "##able", "!", "$", "5", "中"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, WORLDS!", [2, 4, 1, 5, 6, 10, 3, 0]),
        ("unaffordable $5", [2, 7, 8, 9, 11, 12, 3, 0]),
        ("wörld\x00 \u200bhe\u0301llo", [2, 5, 4, 3, 0, 0, 0, 0]),
        ("hello中world xyzzy", [2, 4, 13, 5, 1, 3, 0, 0]),
        ("hello " * 20, [2, 4, 4, 4, 4, 4, 4, 3]),
        ("", [2, 3, 0, 0, 0, 0, 0, 0]),
        ("s" * 101, [2, 1, 3, 0, 0, 0, 0, 0]),
    ],
)
def test_words_become_the_longest_pieces(text: str, ids: list[int]) -> None:
    assert WordPiece(PIECES).encode([text], 8).tolist() == [ids]


def test_safetensors(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.full(4, -1.5, np.float32)}
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        low = len(body)
        body += array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [low, len(body)]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    (tmp_path / "w").write_bytes(len(text).to_bytes(8, "little") + text + body)
    found = minilm.read_safetensors(tmp_path / "w")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_many_files_of_a_package_become_lines() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        for name in ("package/data/b/2.json", "package/data/a/1.json", "package/data/a/1.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name) + 1
            file.addfile(info, io.BytesIO(name.encode() + b"\n"))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as file:
        lines = datasets._member(file, "package/data/*/*.json").splitlines()
        assert lines == [b"package/data/a/1.json", b"package/data/b/2.json"]
        with pytest.raises(KeyError):
            datasets._member(file, "package/*.xml")


def test_a_classifier_finds_a_plane() -> None:
    random = np.random.default_rng(0)
    x, plane = random.standard_normal((600, 12)), random.standard_normal(12)
    y = x @ plane + 0.5 > 0
    made = mails.Classifier(x[:400], y[:400])
    assert made.accuracy(x[400:], y[400:]) > 0.95
    assert made.accuracy(x[400:], ~y[400:]) < 0.05


def test_mails_are_read_without_head_and_markup() -> None:
    text = "From: a@b\nSubject:  Hello <b> \nTo: c\n\n<HTML><BODY bgcolor=3D>Some <b>bold</b>\ntext"
    found = mails._readable(text)
    assert found.startswith("Hello <b>\n") and "From" not in found
    assert found.split("\n", 1)[1].split() == ["Some", "bold", "text"]


@pytest.mark.models
@pytest.mark.nightly
def test_sentences_of_one_meaning_are_near_each_other() -> None:
    try:
        weights, table = datasets.fetch_files(datasets.MINILM)
    except DownloadFailed as error:
        pytest.skip(str(error))
    texts = ["A man is eating food.", "A man eats a meal.", "The girl is carrying a baby."]
    ids = WordPiece(table.read_text(encoding="utf-8").splitlines()).encode(texts, minilm.TOKENS)
    made = HostRuns(minilm.build(minilm.read_safetensors(weights))).run({"input_ids": ids})["embedding"]
    likeness = made @ made.T
    assert np.allclose(np.diagonal(likeness), 1, atol=1e-5)
    assert likeness[0, 1] > 0.85 and likeness[0, 2] < 0.2


@pytest.mark.models
@pytest.mark.nightly
def test_mails_are_told_apart_in_int8() -> None:
    try:
        asked = task("minilm_mails", 400)
    except DownloadFailed as error:
        pytest.skip(str(error))
    assert asked.score is not None
    made, _, report = ingot.quantize(asked.model, {asked.input: asked.calibration})
    right = []
    for model in (asked.model, made):
        runs = HostRuns(model)  # type: ignore[arg-type]
        parts = [runs.run({asked.input: asked.samples[i : i + 20]})["embedding"] for i in range(0, 400, 20)]
        right.append(round(400 * asked.score(np.concatenate(parts), np.concatenate(parts))))
    assert report.within_budget and report.quantized >= 24
    assert right[0] >= 360 and right[0] - right[1] <= 2
