"""Moderation: images and texts held against a policy that names what is unwanted, in words and images.

Names are imported when first used. An assistant to people who decide, not a guarantee: see docs/moderation.md.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .audit import AuditLog as AuditLog
    from .calibration import Calibration as Calibration
    from .calibration import calibrate as calibrate
    from .items import Item as Item
    from .items import read_items as read_items
    from .moderator import Finding as Finding
    from .moderator import Moderator as Moderator
    from .moderator import Verdict as Verdict
    from .policy import Category as Category
    from .policy import Policy as Policy
    from .policy import PolicyError as PolicyError
    from .policy import write_thresholds as write_thresholds

_NAMES_IN = {
    "audit": ("AuditLog",),
    "calibration": ("Calibration", "calibrate"),
    "items": ("Item", "read_items"),
    "moderator": ("Finding", "Moderator", "Verdict"),
    "policy": ("Category", "Policy", "PolicyError", "write_thresholds"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)
