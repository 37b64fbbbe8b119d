"""Pins: a push through Xet arrives whole. In a process of its own: the Xet client keeps threads for good."""

from pathlib import Path

from interpreters import run_python

TESTS = Path(__file__).resolve().parents[1]


def test_a_push_through_xet_in_a_fresh_process():
    code = "import pytest, sys; sys.exit(pytest.main(['-q', sys.argv[1]]))"
    done = run_python(code, TESTS / "hub" / "xet_push.py", cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
