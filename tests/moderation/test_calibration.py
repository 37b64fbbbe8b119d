"""Pins: thresholds reach the wanted precision or recall with the most of the other (worked by hand, and against brute
force over all thresholds); several parts share their false alarms; held-out counts never see an item's own group."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_dataset

from hf_customclip.moderation import calibrate
from hf_customclip.moderation.calibration import _folds, calibrate_category
from hf_customclip.moderation.counts import Counts, share

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
POSITIVE = np.array([True, True, False, True, False, False, False])
FOLDS = np.arange(7)


def thresholds(target, value, scores=SCORES, positive=POSITIVE):
    return calibrate_category("x", {"image": scores}, positive, target, value, FOLDS[: len(scores)])


def test_worked_by_hand():
    """+ + - + - - -: two right at no false alarm, the third costs one."""
    exact = thresholds("precision", 1.0)
    assert exact.thresholds == {"image": 0.75}, "halfway between the best wrong and the next above"
    assert exact.seen == Counts(2, 0, 1, 4)
    loose = thresholds("precision", 0.7)
    assert loose.thresholds == {"image": 0.55} and loose.seen == Counts(3, 1, 0, 3)
    all_found = thresholds("recall", 1.0)
    assert all_found.thresholds == {"image": 0.55}
    assert thresholds("recall", 0.6).thresholds == {"image": 0.75}
    assert np.allclose(
        exact.curve, [[0, 1, 2 / 3], [1, 3 / 4, 1], [2, 3 / 5, 1], [3, 3 / 6, 1], [4, 3 / 7, 1]]
    )


def test_a_precision_out_of_reach_is_said():
    with pytest.raises(
        ValueError, match=r"No threshold of 'x' has a precision of 0\.9 .* the highest is 0\.500"
    ):
        thresholds("precision", 0.9, np.array([0.5, 0.5, 0.1]), np.array([True, False, False]))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=12).filter(
        lambda rows: any(positive for _, positive in rows)
    ),
    st.sampled_from([0.3, 0.5, 0.75, 1.0]),
    st.sampled_from(["precision", "recall"]),
)
def test_no_threshold_does_better(rows, value, target):
    scores = np.array([score / 10 for score, _ in rows])
    positive = np.array([p for _, p in rows])
    best = None
    for threshold in [*np.unique(scores), 2.0]:
        hit = scores >= threshold
        precision = (hit & positive).sum() / hit.sum() if hit.any() else 0.0
        recall = (hit & positive).sum() / positive.sum()
        wanted, other = (precision, recall) if target == "precision" else (recall, precision)
        if wanted >= value - 1e-9 and recall > 0:
            best = max(other, best or 0.0)
    if best is None:
        with pytest.raises(ValueError, match="No threshold"):
            calibrate_category("x", {"image": scores}, positive, target, value, np.zeros(len(rows)))
        return
    found = calibrate_category("x", {"image": scores}, positive, target, value, np.zeros(len(rows))).seen
    wanted, other = (
        (found.precision, found.recall) if target == "precision" else (found.recall, found.precision)
    )
    assert wanted >= value - 1e-9 and other == pytest.approx(best)


def test_parts_share_their_false_alarms():
    """Texts score near 0.9 whatever they say, images near 0.2: each needs its own threshold."""
    image = np.array([0.25, 0.10, 0.12, 0.11, 0.13, 0.14])
    text = np.array([0.85, 0.95, 0.80, 0.81, 0.82, -np.inf])
    positive = np.array([True, True, False, False, False, False])
    found = calibrate_category("x", {"image": image, "text": text}, positive, "recall", 1.0, np.arange(6))
    assert found.seen == Counts(2, 0, 0, 4), "one found by its image, one by its text"
    assert found.thresholds == {"image": pytest.approx(0.195), "text": pytest.approx(0.835)}


def test_held_out_items_never_chose_their_own_threshold():
    """Each positive of its own group lies below all others' scores: alone it would be found, held out never."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.65])
    positive = np.array([True, True, True, True, False])
    found = calibrate_category("x", {"image": scores}, positive, "recall", 1.0, np.arange(5))
    assert found.seen.recall == 1.0
    # Without 0.6 the threshold lies above 0.65; for every other one it lies at 0.6, below them.
    assert (found.held_out.true_positives, found.held_out.false_negatives) == (3, 1)
    together = calibrate_category("x", {"image": scores}, positive, "recall", 1.0, np.array([0, 1, 2, 0, 0]))
    assert together.held_out.true_positives == 3, "0.9 is found, 0.6 is not: both were held out at once"


def test_folds_keep_groups_together_and_come_out_the_same():
    groups = [f"g{i % 25}" for i in range(100)]
    folds = _folds(groups)
    assert all(len({f for f, g in zip(folds, groups, strict=True) if g == name}) == 1 for name in set(groups))
    assert sorted(np.bincount(folds)) == sorted([12, 12, 12, 12, 12, 8, 8, 8, 8, 8])
    assert (folds == _folds(groups)).all()


def test_the_interval_is_wilsons():
    """Peer: statsmodels' proportion_confint(8, 10, method="wilson") is (0.4902, 0.9433)."""
    assert share(8, 10) == "0.800 (8 of 10; 95 % interval 0.49 to 0.94)"
    assert share(0, 0) == "unknown (0 of 0)" and share(0, 3).startswith(
        "0.000 (0 of 3; 95 % interval 0.00 to 0.56"
    )


@pytest.fixture(scope="module")
def labelled():
    rows = tiny_dataset(64)
    captions = [captions[0] for captions in rows["captions"]]
    return rows["image"], captions, [["crosses"] if "cross" in text else [] for text in captions]


def test_calibrated_thresholds_do_what_was_measured(moderator, labelled):
    """End to end: the policy with the new thresholds decides as `seen` counted."""
    import dataclasses

    images, captions, labels = labelled
    result = calibrate(moderator, images, captions, labels, recall=0.9, batch_size=20)
    (only,) = result.categories
    assert result.skipped == ("red",) and only.seen.recall >= 0.9
    assert set(only.thresholds) == {"image", "text", "pair", "example"}
    crosses = dataclasses.replace(moderator.policy.categories[0], thresholds=only.thresholds)
    again = type(moderator)(
        moderator.model, moderator.processor, dataclasses.replace(moderator.policy, categories=(crosses,))
    )
    triggered = [verdict.action == "block" for verdict in again.check(images, captions)]
    hits = sum(t for t, names in zip(triggered, labels, strict=True) if names)
    assert (hits, sum(triggered) - hits) == (only.seen.true_positives, only.seen.false_positives)
    report = str(result)
    assert "crosses: 16 positive and 48 negative examples" in report
    assert "red: no positive examples, threshold unchanged" in report
    assert result.to_dict()["categories"]["crosses"]["seen"]["true_positives"] == hits


def test_images_alone_leave_the_text_threshold_alone(moderator, labelled):
    result = calibrate(moderator, labelled[0], None, labelled[2], recall=0.5)
    assert set(result.thresholds["crosses"]) == {"image", "example"}


def test_the_curve_is_drawn(moderator, labelled, tmp_path):
    from PIL import Image

    result = calibrate(moderator, labelled[0], None, labelled[2], recall=0.5)
    with Image.open(result.plot(tmp_path / "curve.png")) as image:
        assert min(image.size) > 700


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({}, "either a precision or a recall"),
        ({"precision": 0.5, "recall": 0.5}, "either a precision or a recall"),
        ({"recall": 1.5}, r"wanted recall is 1\.5; it must be above 0"),
    ],
)
def test_targets_are_checked(moderator, labelled, target, said):
    with pytest.raises(ValueError, match=said):
        calibrate(moderator, labelled[0], None, labelled[2], **target)


def test_labels_are_checked(moderator, labelled):
    with pytest.raises(ValueError, match="Item 2 is labelled 'squares', which the policy does not have"):
        calibrate(moderator, labelled[0][:2], None, [[], ["squares"]], recall=0.5)
    with pytest.raises(ValueError, match="1 labels for 2 items"):
        calibrate(moderator, labelled[0][:2], None, [[]], recall=0.5)


def test_the_order_of_items_does_not_matter(moderator):
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=40), np.arange(40) % 4 == 0
    orders = itertools.islice(itertools.repeat(None), 3)
    found = set()
    for _ in orders:
        order = rng.permutation(40)
        each = calibrate_category("x", {"image": scores[order]}, positive[order], "recall", 0.8, order % 10)
        found.add((tuple(each.thresholds.items()), each.seen, each.held_out))
    assert len(found) == 1


def test_no_threshold_is_above_1_and_what_is_the_same_is_said():
    """A harmless text that is a prompt to the letter cannot be held back; nor is 1.001 a cosine."""
    scores = np.array([1.0, 0.6, 1.0, 0.2])
    positive = np.array([True, True, False, False])
    found = calibrate_category("x", {"text": scores}, positive, "recall", 0.5, np.arange(4))
    assert found.thresholds["text"] <= 1 and found.seen.recall >= 0.5
    alone = calibrate_category("x", {"text": scores[:3], "image": np.array([0.1, 0.9, 0.2])}, positive[:3],
                               "precision", 1.0, np.arange(3))  # fmt: skip
    assert alone.thresholds["text"] == 1.0 and any("to the letter (cosine 1)" in note for note in alone.notes)
    assert alone.seen.false_positives == 1, "and counted as it will be"


def test_thresholds_of_little_use_are_warned_of():
    scores = np.array([0.1] * 4 + [0.5] * 12)
    found = calibrate_category("x", {"image": scores}, np.arange(16) < 4, "recall", 1.0, np.arange(16))
    assert any(note.startswith("WARNING") and "12 are harmless" in note for note in found.notes)
    assert not calibrate_category(
        "x", {"image": -scores}, np.arange(16) < 4, "recall", 1.0, np.arange(16)
    ).notes


def test_missing_thresholds_are_found_and_the_policys_own_examples_explained(
    moderator, policy_file, labelled, tmp_path
):
    """From a policy without any to one that decides as `seen` counted; the rest of the file stays."""
    from hf_customclip.moderation import Policy, write_thresholds

    (tmp_path / "cross.png").write_bytes((policy_file.parent / "cross.png").read_bytes())
    text = policy_file.read_text()
    lines = [line for line in text.splitlines() if "threshold:" not in line]
    file = tmp_path / "policy.yaml"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"'crosses': 'threshold' is missing; .* calibrate"):
        Policy.from_file(file)
    empty = type(moderator)(moderator.model, moderator.processor, Policy.from_file(file, calibrated=False))
    images, captions, labels = labelled
    result = calibrate(empty, images, captions, labels, recall=0.9)
    assert any(
        "1 of these (row 4) are example images of the policy itself" in note
        for note in result.categories[0].notes
    )
    write_thresholds(file, result.thresholds)
    assert [line for line in file.read_text().splitlines() if "threshold:" not in line] == lines
    read = Policy.from_file(file, calibrated=False)
    assert read.categories[0].thresholds == pytest.approx(result.thresholds["crosses"])
