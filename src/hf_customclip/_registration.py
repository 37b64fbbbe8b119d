"""Registers this package's classes when transformers' Auto classes are imported, and not before.

Registering needs torch and transformers, seconds of import that a command such as `--help` should not pay.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_AUTO_MODULES = tuple(
    f"transformers.models.auto.{kind}_auto" for kind in ("configuration", "modeling", "processing")
)


def register_when_needed() -> None:
    """Register now if the Auto classes are loaded, else as soon as they are."""
    if any(name in sys.modules for name in _AUTO_MODULES):
        importlib.import_module("hf_customclip.modeling")
    else:
        sys.meta_path.insert(0, _AutoModuleFinder())


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    """Lets others find the Auto modules, and registers after they have run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _AUTO_MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfter(spec.loader, self)
        return spec


class _RegisterAfter(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, finder: _AutoModuleFinder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        module.__loader__ = self.loader
        try:
            importlib.import_module("hf_customclip.modeling")
        except ImportError:
            # transformers is in the middle of importing itself; the next Auto module brings another chance.
            return
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
