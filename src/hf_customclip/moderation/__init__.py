"""Moderation: pictures and texts held against a policy that names what is unwanted, in words and pictures.

Names are imported when first used. An assistant to people who decide, not a guarantee: see docs/moderation.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audit import AuditLog
    from .calibration import Calibration, calibrate
    from .items import Item, read_items
    from .moderator import Finding, Moderator, Verdict
    from .policy import Category, Policy, PolicyError, write_thresholds

_MODULE_OF = {
    "AuditLog": "audit",
    "Calibration": "calibration",
    "Category": "policy",
    "Finding": "moderator",
    "Item": "items",
    "Moderator": "moderator",
    "Policy": "policy",
    "PolicyError": "policy",
    "Verdict": "moderator",
    "calibrate": "calibration",
    "read_items": "items",
    "write_thresholds": "policy",
}

__all__ = [
    "AuditLog",
    "Calibration",
    "Category",
    "Finding",
    "Item",
    "Moderator",
    "Policy",
    "PolicyError",
    "Verdict",
    "calibrate",
    "read_items",
    "write_thresholds",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
