"""Whether two runs of training came to the same: their losses step by step, and their final metrics.

    python benchmarks/same_results.py BEFORE AFTER

Both are output folders with `trainer_state.json` and `all_results.json`. Prints the largest relative differences, and
exits with 1 where one is above `--tolerance` (float rounding in another order of additions stays below 1e-3).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

NOT_RESULTS = ("runtime", "per_second", "flos")


def losses(folder: Path) -> dict[str, float]:
    """Training loss by step."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {f"loss at step {entry['step']}": entry["loss"] for entry in history if "loss" in entry}


def metrics(folder: Path) -> dict[str, float]:
    """Final numbers, without those that time."""
    found = json.loads((folder / "all_results.json").read_text())
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, (int, float)) and not any(part in name for part in NOT_RESULTS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    worst = 0.0
    for what, read in (("losses", losses), ("metrics", metrics)):
        before, after = read(args.before), read(args.after)
        differences = {
            name: abs(before[name] - after[name]) / max(abs(before[name]), 1e-9)
            for name in before.keys() & after.keys()
        }
        name = max(differences, key=differences.__getitem__, default=None)
        worst = max(worst, math.inf if name is None else differences[name])
        print(f"{what}: {len(differences)} compared, {len(before.keys() ^ after.keys())} in one only", end="")
        print("" if name is None else f"; largest difference {differences[name]:.2g} ({name})")
    sys.exit(worst > args.tolerance)


if __name__ == "__main__":
    main()
