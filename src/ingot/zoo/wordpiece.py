"""WordPiece, the tokens of BERT (Wu et al. 2016): words are cut into the longest pieces of a vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

_LONGEST = 100
"""Letters of a word beyond which it is unknown."""
_IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))


class WordPiece:
    """Texts to ids, without regard to case and accents."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """``vocabulary``: pieces by id; ``##`` begins those that continue a word."""
        self._ids = {piece: index for index, piece in enumerate(vocabulary)}

    def encode(self, texts: Sequence[str], length: int) -> npt.NDArray[np.int64]:
        """(texts, ``length``): ``[CLS]``, pieces, ``[SEP]``, padding; what is longer is cut."""
        found = np.full((len(texts), length), self._ids["[PAD]"], np.int64)
        for row, text in zip(found, texts, strict=True):
            ids = [self._ids["[CLS]"]]
            for word in _words(text):
                ids += self._pieces(word)
                if len(ids) >= length:
                    break
            ids = [*ids[: length - 1], self._ids["[SEP]"]]
            row[: len(ids)] = ids
        return found

    def _pieces(self, word: str) -> list[int]:
        """The longest piece first, then the longest of the rest; an unknown word where a rest has none."""
        unknown = [self._ids["[UNK]"]]
        if len(word) > _LONGEST:
            return unknown
        ids, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in self._ids), None)
            if end is None:
                return unknown
            ids.append(self._ids[mark + word[start:end]])
            start = end
        return ids


def _words(text: str) -> Iterator[str]:
    """Words, punctuation marks and ideographs one by one, in lower case and without accents."""
    word = ""
    for letter in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(letter)
        if kind == "Mn" or letter in "\0\ufffd" or (kind in ("Cc", "Cf") and not letter.isspace()):
            continue
        alone = kind.startswith("P") or _is_ascii_mark(letter) or _is_ideograph(letter)
        if alone or letter.isspace():
            if word:
                yield word
            word = ""
            if alone:
                yield letter
        else:
            word += letter
    if word:
        yield word


def _is_ascii_mark(letter: str) -> bool:
    """All of ASCII but letters, digits and spaces: BERT takes ``$`` and ``^`` for punctuation too."""
    return "!" <= letter <= "~" and not letter.isalnum()


def _is_ideograph(letter: str) -> bool:
    return any(low <= ord(letter) <= high for low, high in _IDEOGRAPHS)
