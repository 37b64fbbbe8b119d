"""Pins: a policy file is read as meant or refused in a sentence that names the place and what is allowed; thresholds
are written back without touching anything else; the fingerprint changes with every change that matters."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_dataset

from hf_customclip.moderation import Policy, PolicyError, write_thresholds

ROOT = Path(__file__).resolve().parents[2]

POLICY = """\
# Written by hand; this comment must survive.
name: shapes
categories:
  red things:     # of any shape
    prompts: [a red square, "a red circle"]
    counter_prompts:
      - a pink square
    threshold: 0.25   # by eye
    action: flag
  crosses:
    prompts:
      - a cross
    examples: [cross.png]
    threshold:
      image: 0.2
      # the example's own
      example: 0.9
    action: block
"""


@pytest.fixture
def file(tmp_path):
    tiny_dataset(4)[3]["image"].save(tmp_path / "cross.png")
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path / "policy.yaml"


def test_a_policy_is_read_as_meant(file):
    policy = Policy.from_file(file)
    red, crosses = policy.categories
    assert (policy.name, red.name, red.action) == ("shapes", "red things", "flag")
    assert red.prompts == ("a red square", "a red circle") and red.counter_prompts == ("a pink square",)
    assert red.thresholds == {"image": 0.25, "text": 0.25, "pair": 0.25}, "one number is for all worded parts"
    assert crosses.examples == (file.parent / "cross.png",), "relative to the policy"
    assert crosses.thresholds == {"image": 0.2, "example": 0.9} and crosses.action == "block"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: shapes", "name: [", "is not valid YAML"),
        ("name: shapes", "nmae: shapes", "'nmae' is not known. Did you mean name"),
        ("categories:", "categories: {}\nname2:", "'name2' is not known"),
        (POLICY, "- a\n", "a policy must hold name, categories, each with a colon and its value"),
        (POLICY, "categories: {}\n", "'categories' must hold at least one category"),
        (POLICY, "name: x\n", "a policy: 'categories' is missing"),
        ("    action: flag\n", "", "category 'red things': 'action' is missing"),
        ("action: flag", "action: delete", "'red things': the action is 'delete'; allowed are flag, review, block"),
        ("prompts: [a red square, \"a red circle\"]", "prompts: []", "'red things': 'prompts' needs at least one"),
        ("prompts: [a red square, \"a red circle\"]", "prompts: red", "'prompts' must be a list of texts"),
        ("prompts: [a red square, \"a red circle\"]", "prompts: [red, red]", "'prompts' has 'red' more than once"),
        ("threshold: 0.25", "threshold: high", "threshold of 'image' is 'high'; it must be a number from -1 to 1"),
        ("threshold: 0.25", "threshold: 7", "threshold of 'image' is 7; it must be"),
        ("threshold: 0.25", "threshold: .nan", "threshold of 'image' is nan; it must be"),
        ("threshold: 0.25", "threshold: true", "threshold of 'image' is True; it must be"),
        ("threshold: 0.25", "threshold: {}", "'threshold' names no part; allowed are image, text, pair, example"),
        ("threshold: 0.25", "threshold: {picture: 1}", "'picture' is not known. Did you mean pair"),
        ("threshold: 0.25", "threshold: {image: 0.1, example: 0.5}", "'red things': example images and their"),
        ("      example: 0.9\n", "", "'crosses': example images and their threshold belong together"),
        ("[cross.png]", "[corss.png]", "there is no example image '.*corss.png'"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_said(file, old, new, said):
    file.write_text(POLICY.replace(old, new))
    with pytest.raises(PolicyError, match=said) as told:
        Policy.from_file(file)
    assert str(file) in str(told.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(PolicyError, match="There is no policy file"):
        Policy.from_file(tmp_path / "none.yaml")


def test_thresholds_are_written_and_nothing_else_is_touched(file):
    write_thresholds(file, {"red things": {"image": 0.125}, "crosses": {"image": -0.5, "example": 0.75}})
    expected = POLICY.replace(
        "threshold: 0.25 ", "threshold: {image: 0.125, text: 0.25, pair: 0.25} "
    ).replace(
        "      image: 0.2\n      # the example's own\n      example: 0.9\n",
        "      {image: -0.5, example: 0.75}\n",
    )
    assert file.read_text() == expected
    assert [path.name for path in sorted(file.parent.iterdir())] == ["cross.png", "policy.yaml"]
    write_thresholds(file, {"red things": {"image": 0.25}})  # what was written can be written again
    assert Policy.from_file(file).categories[0].thresholds["image"] == 0.25


def test_a_category_that_is_not_there_leaves_the_file_as_it_was(file):
    with pytest.raises(PolicyError, match="has no category 'blue'; it has red things, crosses"):
        write_thresholds(file, {"red things": {"image": 0.0}, "blue": {"image": 0.1}})
    assert file.read_text() == POLICY


@settings(max_examples=50, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(["image", "text", "pair"]), st.floats(-1, 1, allow_nan=False), min_size=1
    )
)
def test_any_thresholds_come_back_exactly(values, tmp_path_factory):
    file = tmp_path_factory.mktemp("policy") / "policy.yaml"
    file.write_text(POLICY[: POLICY.index("  crosses:")])
    write_thresholds(file, {"red things": values})
    read = Policy.from_file(file).categories[0].thresholds
    assert read == {"image": 0.25, "text": 0.25, "pair": 0.25, **values}


def test_the_fingerprint_knows_every_change_but_not_a_comment(file):
    before = Policy.from_file(file).fingerprint()
    seen = {before}
    changes = [
        ("a red square", "a red box"),
        ("0.25", "0.26"),
        ("flag", "review"),
        ("a pink square", "a rose"),
    ]
    for old, new in changes:
        file.write_text(POLICY.replace(old, new))
        seen.add(Policy.from_file(file).fingerprint())
    file.write_text(POLICY)
    tiny_dataset(4)[2]["image"].save(file.parent / "cross.png")
    seen.add(Policy.from_file(file).fingerprint())
    assert len(seen) == len(changes) + 2
    tiny_dataset(4)[3]["image"].save(file.parent / "cross.png")
    file.write_text(POLICY.replace("# by eye", "# by ear"))
    assert Policy.from_file(file).fingerprint() == before


def test_the_example_policy_is_one():
    policy = Policy.from_file(ROOT / "examples" / "policies" / "emoji.yaml")
    assert [category.name for category in policy.categories] == ["weapons", "alcohol"]
