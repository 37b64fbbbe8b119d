"""Makes every test hermetic: no network, none of the user's caches, one thread."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

_HOME = tempfile.mkdtemp(prefix="hf-customclip-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# Before anything is imported: the libraries read these once.
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_", "TRANSFORMERS_"))]:
    del os.environ[_name]
os.environ.update(
    HF_HOME=_HOME,
    HF_DATASETS_CACHE=os.path.join(_HOME, "datasets"),
    HF_MODULES_CACHE=os.path.join(_HOME, "modules"),
    TORCH_HOME=os.path.join(_HOME, "torch"),
    XDG_CACHE_HOME=os.path.join(_HOME, "xdg"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")  # or --hypothesis-profile default, for examples drawn anew


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left with them alone in the end."""
    items.sort(key=lambda item: "docs" not in item.path.parts)


@pytest.fixture(autouse=True)
def _online_for_the_test_hub(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A test that starts the loopback Hub (fixture `hub`) may talk to it."""
    if "hub" in request.fixturenames:
        import datasets.config
        from huggingface_hub import constants

        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random weights and images in every run, whichever tests are chosen."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model and its processor."""
    from tiny import tiny_model, tiny_processor

    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What each fault of tests/hub/test_faults.py led to, at the end of the run that met them."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    outcomes = [
        value
        for report in reports
        if getattr(report, "when", None) == "call"
        for key, value in report.user_properties
        if key == "push"
    ]
    if outcomes:
        terminalreporter.section("pushing under faults: stage | fault -> outcome")
    for outcome in sorted(outcomes):
        stage, fault, seen = outcome.split(" | ")
        terminalreporter.line(f"{stage:<21}{fault:<17}{seen}")
