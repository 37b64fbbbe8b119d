"""A policy about the tiny drawings, and the moderator of it."""

import pytest
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import Moderator

POLICY = """\
name: shapes
categories:
  crosses:
    prompts: [a cross, a large red cross on white]
    counter_prompts: [a square, a circle]
    examples: [cross.png]
    threshold: {image: 0.3, text: 0.9, pair: 0.6, example: 0.999}
    action: block
  red:
    prompts: [red]
    threshold: 0.5
    action: flag
"""


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tiny_dataset(4)[3]["image"].save(folder / "cross.png")
    (folder / "policy.yaml").write_text(POLICY)
    return folder / "policy.yaml"


@pytest.fixture(scope="session")
def moderator(policy_file):
    return Moderator(tiny_model(), tiny_processor(), policy_file)
