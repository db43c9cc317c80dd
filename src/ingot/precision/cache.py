"""The calibration cache: what calibration saw, in a JSON file that belongs to one model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.errors import IngotError
from ingot.files import write_atomically
from ingot.precision.calibrate import Statistics

_FORMAT, _VERSION = "ingot-calibration", 1


@dataclass(frozen=True)
class Calibration:
    """What has to be known to quantize without the data."""

    sha256: str
    """Of the model it was made with."""
    statistics: Statistics
    before: Statistics | None = None
    """Seen before channels were equalised, if they were: decides the factors."""
    scaled: bool = False
    """Whether that took factors of their own."""


def write_cache(path: Path, calibration: Calibration) -> None:
    """Writes it in one step. Raises IngotError when it cannot be written."""
    content = {
        "format": _FORMAT, "version": _VERSION, "model_sha256": calibration.sha256,
        "scaled": calibration.scaled,
        "before": calibration.before.saved() if calibration.before else None, **calibration.statistics.saved(),
    }  # fmt: skip
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def read_cache(path: Path, sha256: str) -> Calibration:
    """What :func:`write_cache` wrote for the model ``sha256``.

    Raises IngotError for a file that cannot be read, is damaged, of another version, or of another model.
    """
    again = "delete it, and calibrate again"
    try:
        saved: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise IngotError(f"cannot read the calibration cache: {error}", node=str(path), fix=again) from None
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise IngotError("this is no calibration cache", node=str(path), fix="give another file")
    if saved.get("version") != _VERSION:
        raise IngotError(
            f"the calibration cache has version {saved.get('version')}, this Ingot reads {_VERSION}",
            node=str(path),
            fix=again,
        )
    if saved.get("model_sha256") != sha256:
        raise IngotError(
            f"the calibration cache belongs to another model (SHA-256 {str(saved.get('model_sha256'))[:12]}…, "
            f"this one has {sha256[:12]}…)", node=str(path), fix=again,
        )  # fmt: skip
    try:
        before = Statistics.restored(saved["before"]) if saved["before"] else None
        return Calibration(sha256, Statistics.restored(saved), before, bool(saved["scaled"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IngotError(f"the calibration cache is damaged: {error!r}", node=str(path), fix=again) from None
