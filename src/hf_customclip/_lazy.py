"""Names of a package that are imported when first used: torch and transformers take seconds, and many commands,
`--help` first of all, need neither."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, names_in: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for the package, by its modules and the public names in each."""
    module_of = {name: module for module, names in names_in.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{module_of[name]}", package), name)

    names = sorted(module_of)
    return get, lambda: names, names
