"""Pins: transformers' own common tests of models, configurations and processors hold for this package's
classes, with frozen and trained towers, transformers' and torchvision's."""

import os
import re
import sys
from pathlib import Path

import pytest
from interpreters import run_python

HERE = Path(__file__).parent
# The least number of tests that must have run and not been skipped, so that nothing passes by being absent.
CASES = {
    "TrainedViTBert": 90,
    "OtherChoices": 90,
    "FrozenTorchvisionDistilBert": 90,
    "TorchvisionBackbone": 50,
    "Configurations": 2,
    "Processor": 15,
}


@pytest.fixture(scope="module")
def suite(pytestconfig):
    sys.path.append(str(HERE))
    from suite import download

    try:
        return download(Path(pytestconfig.cache.mkdir("transformers_common")))
    except OSError as error:
        pytest.skip(f"transformers' source distribution cannot be fetched: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(("case", "least"), CASES.items(), ids=CASES)
def test_common_suite(case, least, suite):
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = os.environ | {"COMMON_SUITE": str(suite), "PYTHONPATH": path}
    done = run_python("import unittest; unittest.main(None)", f"cases.{case}", env=environment)
    failed = re.findall(r"^(?:FAIL|ERROR): .*", done.stderr, re.MULTILINE)
    assert done.returncode == 0, "\n".join([*failed, done.stderr[-4000:]])
    ran = int(re.findall(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[0])
    skipped = re.findall(r"skipped=(\d+)", done.stderr)
    assert ran - int(skipped[0] if skipped else 0) >= least, done.stderr[-300:]
