"""Whether the Hub answers, asked before the libraries are imported that would ask it again and again."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies


def stay_offline_if_unreachable(timeout: float = 5.0) -> bool:
    """Set HF_HUB_OFFLINE where nothing listens at the Hub's address.

    The Hub's libraries read it when they are imported: what is in the cache then loads at once, and what is
    not is an error at once, not after half a minute of retries.

    Args:
        timeout: seconds to wait for an answer.

    Returns:
        Whether this process works offline, by this or by the user's own setting.
    """
    if not os.environ.get("HF_HUB_OFFLINE") and not getproxies() and not _listens(timeout):
        os.environ["HF_HUB_OFFLINE"] = "1"
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")


def _listens(timeout: float) -> bool:
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout).close()
    except OSError:
        return False
    return True
