"""The code blocks of a Markdown page."""

import re
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
READ_ONLY = {
    "console",
    "text",
    "json",
}  # not run: the first needs a network, a second machine or an installation


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Language and code of each, in order."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))
