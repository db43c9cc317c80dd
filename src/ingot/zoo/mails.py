"""Mails, wanted and unwanted, and a classifier over their embeddings: what a sentence encoder is judged by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ingot.zoo import datasets
from ingot.zoo.nets import minilm
from ingot.zoo.wordpiece import WordPiece

_TAGS = re.compile(r"<[^<>]{0,2000}>")
_TRAIN, _SEEN, _JUDGED = 800, 128, 1000
"""Mails that the classifier learns from, that calibrate, and that are judged by; half of each is unwanted."""
_LETTERS = 4000
"""Of a mail; more do not fit the tokens."""
_PENALTY = 1e-3
_ROUNDS = 30

Array = np.ndarray[Any, Any]


def mails() -> tuple[list[str], Array]:
    """Subject and text of 3,792 mails, in an order drawn once, and whether each is unwanted; half of them are.

    Raises IngotError when they cannot be fetched.
    """
    texts: dict[bool, list[str]] = {False: [], True: []}
    for line in datasets.fetch_files(datasets.MAILS)[0].read_bytes().splitlines():
        mail = json.loads(line)
        texts["spam" in mail["group"]].append(_readable(mail["text"]))
    random = np.random.default_rng(0)
    count = min(len(found) for found in texts.values())
    drawn = {unwanted: random.permutation(len(found))[:count] for unwanted, found in texts.items()}
    pairs = zip(*([texts[unwanted][i] for i in drawn[unwanted]] for unwanted in texts), strict=True)
    return [text for pair in pairs for text in pair], np.arange(2 * count) % 2 == 1


def _readable(mail: str) -> str:
    """The subject, then the body without markup."""
    head, _, body = mail.partition("\n\n")
    subject = re.search(r"^Subject:(.*)$", head, re.MULTILINE | re.IGNORECASE)
    return f"{subject.group(1).strip() if subject else ''}\n{_TAGS.sub(' ', body[: 4 * _LETTERS])[:_LETTERS]}"


def encoded() -> Iterator[tuple[Array, Array]]:
    """Token ids int64 (n, 128) and labels of the three parts: to learn from, to calibrate with, to judge by."""
    texts, unwanted = mails()
    table = datasets.fetch_files(datasets.MINILM)[1].read_text(encoding="utf-8").splitlines()
    pieces, start = WordPiece(table), 0
    for count in (_TRAIN, _SEEN, _JUDGED):
        part = slice(start, start + count)
        yield pieces.encode(texts[part], minilm.TOKENS), unwanted[part]
        start += count


class Classifier:
    """Logistic regression with a squared penalty, fitted by Newton's method."""

    def __init__(self, features: Array, labels: Array) -> None:
        """``features`` (n, k) and boolean ``labels`` (n,)."""
        x = self._with_one(features)
        y = labels.astype(np.float64)
        self._weights = np.zeros(x.shape[1])
        for _ in range(_ROUNDS):
            chance = 1 / (1 + np.exp(-x @ self._weights))
            slope = x.T @ (chance - y) / len(y) + _PENALTY * self._weights
            bend = (x.T * (chance * (1 - chance))) @ x / len(y) + _PENALTY * np.eye(x.shape[1])
            self._weights -= np.linalg.solve(bend, slope)

    def accuracy(self, features: Array, labels: Array) -> float:
        """Share of ``features`` that get their label."""
        return float(np.mean((self._with_one(features) @ self._weights > 0) == labels))

    @staticmethod
    def _with_one(features: Array) -> Array:
        ones = np.ones((len(features), 1))
        return np.concatenate([features.astype(np.float64), ones], axis=1)
