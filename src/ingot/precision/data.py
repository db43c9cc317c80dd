"""Calibration data: a folder, an .npz file, a function, or arrays; always read batch by batch."""

from __future__ import annotations

import importlib
import itertools
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.precision.inputs import Array, Feeds, Input, fitted
from ingot.precision.pictures import SUFFIXES, reader_for

ADVISED = 100
"""Samples below which ranges are hardly known."""
BATCH = 8
"""Samples that are run at once where the model leaves the number open."""
LABELS = "labels"
"""Name of the array with the right classes, beside the inputs."""


@dataclass(frozen=True)
class Batch:
    """Some samples as the model takes them."""

    feeds: Feeds
    samples: int
    labels: Array | None = None


@dataclass(frozen=True)
class Data:
    """Batches that can be read again and again."""

    batches: Callable[[], Iterator[Batch]]
    samples: int | None
    """None where nobody knows before the end."""
    where: str
    """How messages call it."""
    notes: tuple[str, ...] = ()


Source = str | Path | Array | Mapping[str, Array] | Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class Options:
    """How data is read."""

    pixels: str | None = None
    """A key of ``pictures.PIXELS``: needed for folders of pictures."""
    batch: int = BATCH
    most: int | None = None
    """Samples to use at most."""


def open_data(source: Source, inputs: Sequence[Input], options: Options | None = None) -> Data:
    """``source`` as batches for a model with ``inputs``.

    A path to a folder (of pictures, .npy or .npz files: one sample each), an .npz or .npy file (samples along
    the first axis), ``module:function``; an array or arrays by name likewise; an iterable of samples, or a function
    that gives one. A sample is an array, a tuple, or arrays by name; an array ``labels`` is kept for metrics.

    Raises IngotError, now or while reading, for data that is missing, empty, or does not fit the model.
    """
    options = options or Options()
    if isinstance(source, str | Path):
        return _from_text(str(source), inputs, options)
    if isinstance(source, np.ndarray):
        source = {_only(inputs, "an array").name: source}
    if isinstance(source, Mapping):
        return _stacked(dict(source), inputs, options, "the data")
    if callable(source):
        return _samples(source, inputs, options, "the data")
    if isinstance(source, Iterator):
        source = list(itertools.islice(source, options.most))  # it cannot be read twice
    kept = source
    return _samples(lambda: kept, inputs, options, "the data")


def _from_text(text: str, inputs: Sequence[Input], options: Options) -> Data:
    path = Path(text)
    if path.is_dir():
        return _folder(path, inputs, options)
    if path.is_file():
        return _stacked(_loaded(path, inputs), inputs, options, text)
    if ":" in text:
        return _samples(function_of(text), inputs, options, text)
    raise IngotError("there is no such file or folder", node=text, fix="give a folder, an .npz file or module:function")


def function_of(text: str) -> Callable[..., Any]:
    """The function that ``module:function`` names. Raises IngotError when there is none.

    Modules of the current folder are found too.
    """
    module, _, name = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise IngotError(f"cannot import it: {error}", node=text, fix="write module:function") from None
    except AttributeError:
        raise IngotError(f"{module} has no {name!r}", node=text, fix="write module:function") from None
    if not callable(found):
        raise IngotError("this is no function", node=text, fix="write module:function")
    return found  # type: ignore[no-any-return]


# -- arrays with samples along the first axis


def _loaded(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {_only(inputs, str(path)).name: found}
        with found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise IngotError(f"cannot read arrays: {error}", node=str(path), fix="write it with numpy.savez") from None
    if len(inputs) == 1 and inputs[0].name not in arrays and len(arrays.keys() - {LABELS}) == 1:
        only = next(name for name in arrays if name != LABELS)
        arrays[inputs[0].name] = arrays.pop(only)
    return arrays


def _only(inputs: Sequence[Input], what: str) -> Input:
    if len(inputs) != 1:
        names = ", ".join(given.name for given in inputs)
        raise IngotError(f"{what} is one array, the model has {len(inputs)} inputs", fix=f"give arrays named {names}")
    return inputs[0]


def _stacked(arrays: dict[str, Array], inputs: Sequence[Input], options: Options, where: str) -> Data:
    missing = [given.name for given in inputs if given.name not in arrays]
    if missing:
        fix = f"name the arrays after the inputs: {', '.join(given.name for given in inputs)}"
        raise IngotError(
            f"{where} has no array for it, only {', '.join(arrays) or 'nothing'}", node=missing[0], fix=fix
        )
    counts = {name: len(array) if np.ndim(array) else 0 for name, array in arrays.items()}
    counts = {name: n for name, n in counts.items() if name == LABELS or any(name == i.name for i in inputs)}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name}: {n}" for name, n in counts.items())
        raise IngotError(f"{where} has another number of samples per array: {told}", fix="make the first axes equal")
    count = min(next(iter(counts.values())), options.most or sys.maxsize)
    whole = [given for given in inputs if np.ndim(arrays[given.name]) == len(given.shape) + 1]
    size = 1 if whole else _batch_size(inputs, options)
    least = size if _fixed(inputs) and not whole else 1

    def batches() -> Iterator[Batch]:
        for start in range(0, count - least + 1, size):
            picked = range(start, min(start + size, count))
            feeds = {i.name: _picked(arrays[i.name], picked, bool(whole)) for i in inputs}
            labels = np.asarray(arrays[LABELS][picked.start : picked.stop]) if LABELS in arrays else None
            told = f"{where}, samples {picked.start} to {picked.stop - 1}," if size > 1 else f"{where}, sample {start},"
            yield Batch(fitted(feeds, inputs, told), len(picked), labels)

    return _checked_size(Data(batches, count, where), least)


def _picked(array: Array, samples: range, whole: bool) -> Array:
    return np.asarray(array[samples.start] if whole else array[samples.start : samples.stop])


def _fixed(inputs: Sequence[Input]) -> bool:
    return any(given.shape and given.shape[0] is not None for given in inputs)


def _batch_size(inputs: Sequence[Input], options: Options) -> int:
    fixed = [given.shape[0] for given in inputs if given.shape and given.shape[0] is not None]
    return fixed[0] if fixed else options.batch


def _checked_size(data: Data, least: int) -> Data:
    """``data`` with a note where it is little. Raises IngotError where it is too little to run."""
    if data.samples == 0:
        raise IngotError(f"{data.where} is empty", fix=f"give at least {ADVISED} samples")
    if data.samples is not None and data.samples < least:
        raise IngotError(f"{data.where} has {data.samples} samples, one run of the model takes {least}")
    return data


# -- samples one by one


def _folder(path: Path, inputs: Sequence[Input], options: Options) -> Data:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES | {".npy", ".npz"})
    if not files:
        raise IngotError("this folder holds no pictures, .npy or .npz files", node=str(path))
    pictures = any(file.suffix.lower() in SUFFIXES for file in files)
    reader = reader_for(_only(inputs, "a picture"), options.pixels) if pictures else None

    def read(file: Path) -> Any:
        if reader is not None and file.suffix.lower() in SUFFIXES:
            return reader.read(file)
        return _loaded(file, inputs)

    return _samples(lambda: map(read, files), inputs, options, str(path), len(files))


def _samples(
    make: Callable[[], Iterable[Any]], inputs: Sequence[Input], options: Options, where: str, count: int | None = None
) -> Data:
    size = _batch_size(inputs, options)

    def batches() -> Iterator[Batch]:
        group: list[dict[str, Array]] = []
        used = 0
        for index, sample in enumerate(itertools.islice(iter(make()), options.most)):
            named = _named(sample, inputs, f"{where}, sample {index},")
            if _complete(named, inputs):
                yield _one(named, inputs, f"{where}, sample {index},")
            elif group and not _alike(group[0], named):
                yield _grouped(group, inputs, where, index)
                group = [named]
            else:
                group.append(named)
                if len(group) == size:
                    yield _grouped(group, inputs, where, index)
                    group = []
            used += 1
        if group and not (_fixed(inputs) and len(group) < size and used > len(group)):
            yield _grouped(group, inputs, where, used - 1)
        if not used:
            raise IngotError(f"{where} is empty", fix=f"give at least {ADVISED} samples")

    return Data(batches, None if count is None else min(count, options.most or count), where)


def _named(sample: Any, inputs: Sequence[Input], where: str) -> dict[str, Array]:
    if isinstance(sample, Mapping):
        return {str(name): np.asarray(array) for name, array in sample.items()}
    if isinstance(sample, tuple | list) and len(sample) in (len(inputs), len(inputs) + 1):
        names = [*(given.name for given in inputs), LABELS]
        return {name: np.asarray(array) for name, array in zip(names, sample, strict=False)}
    if isinstance(sample, tuple | list):
        raise IngotError(f"{where} has {len(sample)} arrays, the model {len(inputs)} inputs")
    return {_only(inputs, where).name: np.asarray(sample)}


def _complete(named: Mapping[str, Array], inputs: Sequence[Input]) -> bool:
    """Whether a sample has all axes of the inputs: it is run as it is. Otherwise it lacks the first."""
    return all(given.name in named and named[given.name].ndim == len(given.shape) for given in inputs)


def _alike(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(one[name].shape == other[name].shape for name in one if name != LABELS)


def _one(named: Mapping[str, Array], inputs: Sequence[Input], where: str) -> Batch:
    feeds = fitted(named, inputs, where)
    first = next(iter(feeds.values())).shape
    return Batch(feeds, first[0] if first else 1, np.atleast_1d(named[LABELS]) if LABELS in named else None)


def _grouped(group: Sequence[Mapping[str, Array]], inputs: Sequence[Input], where: str, last: int) -> Batch:
    names = [given.name for given in inputs if given.name in group[0]]
    stacked = {name: np.stack([sample[name] for sample in group]) for name in names}
    told = f"{where}, samples {last - len(group) + 1} to {last},"
    labels = np.stack([sample[LABELS] for sample in group]) if LABELS in group[0] else None
    return Batch(fitted(stacked, inputs, told), len(group), labels)
