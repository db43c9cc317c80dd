"""Which plugins there are: those handed over, and those of installed packages (entry points ``ingot.plugins``)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from ingot.errors import IngotError
from ingot.plugins.api import Plugin

GROUP = "ingot.plugins"
"""An entry point of this group names a Plugin, or a list or tuple of them."""
TAKEN = "ingot.taken"
"""Stands for ONNX's domain at ops of plugins while a model is rewritten: rewrites know ops of ONNX's own domain."""
_STANDARD = ("", "ai.onnx", TAKEN)


@dataclass(frozen=True)
class Plugins:
    """Plugins by op. The first of an op counts: those handed over come before those that were found."""

    items: tuple[Plugin, ...] = ()
    failures: tuple[str, ...] = ()
    """Entry points that could not be loaded, and why."""

    def find(self, domain: str, name: str) -> Plugin | None:
        """The plugin for an op, if there is one."""
        domain = "" if domain in _STANDARD else domain
        return next((p for p in self.items if p.name == name and p.domain == domain), None)

    def require(self, domain: str, name: str, version: str, where: str) -> Plugin:
        """The plugin that an engine needs at ``where``. Raises IngotError where it is missing or another version."""
        found = self.find(domain, name)
        op = f"{domain}.{name}" if domain else name
        if found is None:
            broken = f" ({'; '.join(self.failures)})" if self.failures else ""
            raise IngotError(
                f"this engine needs the plugin {op}, version {version}, which is not there{broken}",
                node=where,
                fix=f"pass it, as ingot.load(..., plugins=[...]) or --plugin MODULE:OBJECT, "
                f"or install the package that offers it under the entry points {GROUP}",
            )
        if found.version != version:
            raise IngotError(
                f"this engine needs version {version} of the plugin {op}, but {found.version} is there",
                node=where,
                fix=f"use version {version} of the plugin, or build the engine again",
            )
        return found


@cache
def discovered() -> Plugins:
    """The plugins of installed packages. One that cannot be loaded is left out; ``failures`` says why."""
    items: list[Plugin] = []
    failures: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        try:
            items += _plugins_in(entry.load(), entry.value)
        except Exception as error:  # whatever a foreign package raises on import
            failures.append(f"the entry point {entry.name} = {entry.value} fails: {type(error).__name__}: {error}")
    return Plugins(tuple(items), tuple(failures))


def load_plugins(text: str) -> tuple[Plugin, ...]:
    """The plugins that ``MODULE:OBJECT`` names (one, or a list). MODULE is importable, or a path of a .py file.

    Raises IngotError for anything else.
    """
    module, _, name = text.rpartition(":")
    if not module or not name:
        raise IngotError(f"{text!r} names no plugin", fix="write MODULE:OBJECT, such as my_package.ops:PLUGIN")
    try:
        found = getattr(_module(module), name)
    except AttributeError:
        raise IngotError(f"{module} has no {name!r}", fix="name a Plugin, or a list of them") from None
    except Exception as error:  # whatever the module raises on import
        raise IngotError(f"{module} cannot be imported: {type(error).__name__}: {error}") from None
    return tuple(_plugins_in(found, text))


def _module(name: str) -> object:
    if not name.endswith(".py"):
        return import_module(name)
    path = Path(name).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # so that worker processes and pickles find it, too
    return import_module(path.stem)


def _plugins_in(found: object, where: str) -> list[Plugin]:
    items = [found] if isinstance(found, Plugin) else found
    if not isinstance(items, list | tuple) or not all(isinstance(item, Plugin) for item in items):
        raise IngotError(f"{where} is neither a Plugin nor a list of them", fix="make it an ingot.plugins.api.Plugin")
    return list(items)


_ACTIVE: ContextVar[Plugins | None] = ContextVar("ingot_plugins", default=None)


def active() -> Plugins:
    """The plugins of the build or the load that is under way."""
    found = _ACTIVE.get()
    return discovered() if found is None else found


@contextmanager
def using(plugins: Sequence[Plugin]) -> Iterator[Plugins]:
    """Adds ``plugins`` in front of those that are active, until the ``with`` block ends.

    Raises IngotError where two of them are for one op.
    """
    _refuse_doubles(plugins)
    outer = active()
    token = _ACTIVE.set(Plugins((*plugins, *outer.items), outer.failures))
    try:
        yield active()
    finally:
        _ACTIVE.reset(token)


def _refuse_doubles(plugins: Iterable[Plugin]) -> None:
    seen: set[tuple[str, str]] = set()
    for plugin in plugins:
        if not isinstance(plugin, Plugin):
            raise IngotError(f"{plugin!r} is no Plugin", fix="make it an ingot.plugins.api.Plugin")
        if (plugin.domain, plugin.name) in seen:
            raise IngotError("two plugins are given for this op", node=plugin.op, fix="give one")
        seen.add((plugin.domain, plugin.name))
