"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ingot.errors import IngotError


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` under another name in the same folder, made if needed, and rename.

    Raises IngotError when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise IngotError(f"cannot be written: {error}", node=str(path), fix="check the folder and its space") from None
