"""``--dump-after``: the model as it is between two stages of a build, as a file to look at."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.graph.lowered import Lowered
from ingot.options import BuildOptions

_LOWERED = "lower"


class Dumper:
    """Writes the stages named in the options: ONNX files, and text for the lowered graph. ``all`` is every stage."""

    def __init__(self, options: BuildOptions) -> None:
        self._wanted = set(options.dump_after)
        self._folder = options.dump_dir or Path.cwd()
        self._seen: list[str] = []

    def __call__(self, name: str, model: ir.Model) -> None:
        """The graph after the stage ``name``."""
        if self._takes(name):
            ir.save(model, self._path(name, "onnx"))

    def lowered(self, lowered: Lowered) -> None:
        """The Regions, a line each."""
        if not self._takes(_LOWERED):
            return
        lines = []
        for region in lowered.regions:
            ops = " ".join(op.op for op in region.ops)
            made = ", ".join(f"{n}: {lowered.values[n].dtype}{list(lowered.values[n].shape)}" for n in region.outputs)
            lines.append(f"{region.kind.value:9} {region.name}: {ops} ({', '.join(region.inputs)}) -> {made}")
        self._path(_LOWERED, "txt").write_text("\n".join(lines) + "\n")

    def check_names(self) -> None:
        """Raises IngotError when a stage was asked for that does not exist."""
        unknown = sorted(self._wanted - {*self._seen, _LOWERED, "all"})
        if unknown:
            known = ", ".join(dict.fromkeys((*self._seen, _LOWERED, "all")))
            raise IngotError(f"there is no pass called {', '.join(unknown)}", fix=f"dump after one of: {known}")

    def _takes(self, name: str) -> bool:
        self._seen.append(name)
        return bool(self._wanted & {name, "all"})

    def _path(self, name: str, suffix: str) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IngotError(f"cannot write dumps: {error}", node=str(self._folder), fix="choose --dump-dir") from None
        return self._folder / f"{len(self._seen):02}-{name}.{suffix}"
