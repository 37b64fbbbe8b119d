"""`hf-customclip towers`: pretrained towers to choose among."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .options import takes_options
from .output import Output

HELP = """List pretrained towers to choose among: size, speed, quality, languages, licence.

\b
    hf-customclip towers
    hf-customclip towers --json | jq -r '.[] | select(.languages == "English").name'

Parameters are in millions. cpu_ms: milliseconds an image (224 x 224) or a caption (16 tokens) on one core, in float32.
sample_rsum: the sum of six recalls (at most 600, by chance 18) that the closed form reaches on the validation split of
the bundled sample, with English captions; empty where the weights were not at hand. Any other tower that transformers,
torchvision or timm loads works too.
"""
# Parameters without a classifier; languages and licences as the towers' publishers state them; the rest is measured by
# benchmarks/towers_speed.py, on an AVX512-BF16 machine.
FILE = Path(__file__).with_name("towers.json")


@takes_options
def towers(printed: Output) -> None:
    """Print the table."""
    rows: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    printed.show(table="\n".join(lines), value=rows, rows=rows)
    printed.say_next("hf-customclip", "init", "DATA")


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
