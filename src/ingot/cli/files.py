"""Files that the commands read and write beside engines."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import IngotError

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


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An ``.npz`` file, in one step. Raises IngotError when it cannot be written.

    Unlike ``numpy.savez`` it takes any name. Types that NumPy does not know, such as bfloat16, become float32.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                plain = array if array.dtype.kind in "biufc" else array.astype(np.float32)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(plain), allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise IngotError(f"cannot write: {error}", node=str(path), fix="check the folder") from None
    finally:
        part.unlink(missing_ok=True)


def write_text(target: str, content: bytes) -> None:
    """To the file ``target`` in one step, or to the standard output for ``-``."""
    if target == "-":
        sys.stdout.write(content.decode())
        sys.stdout.flush()
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise IngotError(f"cannot write: {error}", node=target, fix="check the folder") from None
    finally:
        part.unlink(missing_ok=True)
