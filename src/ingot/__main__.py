"""``python -m ingot`` is the command ``ingot``."""

from __future__ import annotations

from ingot.cli.main import app

if __name__ == "__main__":
    app()
