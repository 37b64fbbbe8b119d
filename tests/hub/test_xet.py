"""Pins: a push through Xet arrives whole. In a process of its own: the Xet client keeps threads for good."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_a_push_through_xet_in_a_fresh_process():
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / "hub" / "xet_push.py")]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
