"""Files that the commands read and write beside engines."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.graph.dtypes import nested

Array = np.ndarray[Any, Any]


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file. Raises IngotError when it is missing or is no such file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise IngotError(f"cannot read arrays: {error}", node=str(path), fix="write it with numpy.savez") from None


def named_arrays(values: Mapping[str, Any]) -> dict[str, Array]:
    """Values as arrays by name: the elements of a sequence ``x`` are ``x.0``, ``x.1`` ...; None is left out.

    A map is an array of its keys, ``x.keys``, and one of its values.
    """
    found: dict[str, Array] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= named_arrays(
                {f"{name}.keys": np.asarray(list(value)), f"{name}.values": np.asarray(list(value.values()))}
            )
        elif isinstance(value, list):
            found |= named_arrays({f"{name}.{position}": item for position, item in enumerate(value)})
        elif value is not None:
            found[name] = np.asarray(value)
    return found


def typed_values(arrays: Mapping[str, Array], types: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of :func:`named_arrays` for inputs whose ``types`` are known; what no type names stays as it is."""
    left, found = dict(arrays), dict[str, Any]()
    for name, dtype in types.items():
        outer = nested(dtype)
        while outer is not None and outer[0] == "optional" and nested(outer[1]) is not None:
            outer = nested(outer[1])
        if outer is None:
            continue
        if outer[0] == "optional":
            found[name] = left.pop(name, None)
            continue
        items = list[Array]()
        while f"{name}.{len(items)}" in left:
            items.append(left.pop(f"{name}.{len(items)}"))
        found[name] = items
    return left | found


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """An ``.npz`` file, in one step. Raises IngotError when it cannot be written.

    Unlike ``numpy.savez`` it takes any name, and sequences (:func:`named_arrays`). Types that NumPy does not know, such
    as bfloat16, become float32.
    """
    with _in_one_step(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, array in named_arrays(arrays).items():
            plain = (
                array if array.dtype.kind in "biufcU" else array.astype(str if array.dtype.kind == "O" else np.float32)
            )
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, plain, allow_pickle=False)


def write_text(target: str, content: bytes) -> None:
    """To the file ``target`` in one step, or to the standard output for ``-``."""
    if target == "-":
        sys.stdout.write(content.decode())
        sys.stdout.flush()
        return
    with _in_one_step(Path(target)) as part:
        part.write_bytes(content)


@contextmanager
def _in_one_step(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place at the end. Raises IngotError when that cannot be."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise IngotError(f"cannot write: {error}", node=str(path), fix="check the folder") from None
    finally:
        with suppress(OSError):  # the folder may be what is wrong
            part.unlink()
