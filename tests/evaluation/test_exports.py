"""Pins: all public names can be imported from `hf_customclip.evaluation`, which alone loads nothing heavy."""

import subprocess
import sys

import pytest

from hf_customclip import evaluation


@pytest.mark.parametrize("name", evaluation.__all__)
def test_every_name_is_there_and_documented(name):
    thing = getattr(evaluation, name)
    assert isinstance(thing, str) or thing.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'recall'"):
        evaluation.recall  # noqa: B018


def test_importing_loads_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    code = f"import hf_customclip.evaluation, sys; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
