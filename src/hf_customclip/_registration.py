"""Registers this package's classes when transformers' Auto classes are imported, and not before.

Registering needs torch and transformers, seconds of import that a command such as `--help` should not pay.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_AUTO_MODULES = tuple(
    f"transformers.models.auto.{kind}_auto" for kind in ("configuration", "modeling", "processing")
)
_WATCHED = ("transformers.", "hf_customclip.modeling.")


def register_when_needed() -> None:
    """Register now if the Auto classes are loaded, else as soon as they are."""
    if _auto_classes_are_loaded():
        importlib.import_module("hf_customclip.modeling.auto")
    else:
        sys.meta_path.insert(0, _TransformersFinder())


def _auto_classes_are_loaded() -> bool:
    return any(name in sys.modules for name in _AUTO_MODULES)


class _TransformersFinder(importlib.abc.MetaPathFinder):
    """Watches modules being imported, until an import has brought the Auto classes."""

    # Modules import each other: only when the outermost is done are all of them whole.
    depth = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """As the usual finder's, for the modules that may be half imported when the Auto classes are there."""
        if not fullname.startswith(_WATCHED):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self)
        return spec

    def module_is_done(self) -> None:
        """Register when nothing is half imported, and watch no longer."""
        if self.depth == 0 and self in sys.meta_path and _auto_classes_are_loaded():
            sys.meta_path.remove(self)
            importlib.import_module("hf_customclip.modeling.auto")


class _WatchedLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, finder: _TransformersFinder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.finder.depth += 1
        try:
            self.loader.exec_module(module)
        finally:
            self.finder.depth -= 1
        self.finder.module_is_done()
