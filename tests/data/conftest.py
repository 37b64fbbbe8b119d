"""Makes `miniatures` importable from the test files beside it, under any import mode of pytest."""

import sys
from pathlib import Path

import datasets
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
