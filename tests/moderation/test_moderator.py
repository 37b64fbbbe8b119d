"""Pins: the score of image, text, pair and example by their definitions (worked by hand, and brute force on a real
model); which part, prompt or image triggered is named; the most severe action wins; a text longer than the
model reads is checked to its end; a batch changes nothing."""

import numpy as np
import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import Moderator
from hf_customclip.data.images import UnreadableImageError
from hf_customclip.inference.encode import encode_images, encode_texts
from hf_customclip.moderation import Category, Finding, Policy, PolicyError, Verdict
from hf_customclip.moderation.moderator import score, split_long_texts

IMAGES = tiny_dataset(8)["image"]
TEXTS = ["a large red cross on white", None, "blue circle", "  ", "a square", "red", None, "a cross"]


def test_scores_worked_by_hand():
    """Unit vectors in a plane: cosines are read off."""
    references = {"prompts": torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "examples": torch.tensor([[0.0, -1.0]])}
    x = torch.tensor([[0.8, 0.6]])
    assert score(x, references, "image") == pytest.approx((0.96, 1)), "nearest is the second: .48 + .48"
    assert score(x, references, "example") == pytest.approx((-0.6, 0))
    far = {**references, "counter_prompts": torch.tensor([[0.0, 1.0], [-1.0, 0.0]])}
    assert score(x, far, "image") == pytest.approx((0.96, 1)), "a counter-prompt further off changes nothing"
    near = {**references, "counter_prompts": torch.tensor([[0.8, 0.6]])}
    assert score(x, near, "image") == pytest.approx((0.92, 1)), "one nearer by 0.04 takes 0.04 away"
    pieces = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert score(pieces, references, "text") == pytest.approx((1.0, 0)), "of several pieces the worst counts"


def brute_force(policy, image, text):
    """`{category: {part: score}}` of one item in float64, by the definitions."""
    model, processor = tiny_model(), tiny_processor()

    def words(texts):
        return [encode_texts(model, processor, [t])[0].double().numpy() for t in texts]

    shown_image = encode_images(model, processor, [image])[0].double().numpy()
    written = words([text])[0] if text and text.strip() else None
    found = {}
    for category in policy.categories:
        prompts, counters = words(category.prompts), words(category.counter_prompts)
        vectors = {"image": shown_image}
        if written is not None:
            vectors |= {"text": written, "pair": (shown_image + written) / 2}
        parts = {}
        for part, vector in vectors.items():
            near = max(vector @ p for p in prompts)
            counter = max([vector @ c for c in counters], default=-np.inf)
            parts[part] = near - max(0.0, counter - near)
        if category.examples:
            shown = [encode_images(model, processor, [e])[0].double().numpy() for e in category.examples]
            parts["example"] = max(shown_image @ e for e in shown)
        found[category.name] = parts
    return found


def test_a_batch_scores_as_brute_force_does(moderator):
    verdicts = moderator.check(IMAGES, TEXTS)
    for image, text, verdict in zip(IMAGES, TEXTS, verdicts, strict=True):
        expected = brute_force(moderator.policy, image, text)
        assert {finding.category: finding.scores for finding in verdict.findings} == {
            name: pytest.approx(parts, abs=2e-6) for name, parts in expected.items()
        }
        for finding, category in zip(verdict.findings, moderator.policy.categories, strict=True):
            over = {part: value - category.thresholds[part] for part, value in finding.scores.items()}
            assert finding.part == max(over, key=over.get) and finding.score == finding.scores[finding.part]
            assert finding.triggered == (max(over.values()) >= 0)
        assert [v.action for v in moderator.check([image], [text])] == [verdict.action]


def test_the_example_image_itself_triggers_and_is_named(moderator, policy_file):
    (verdict,) = moderator.check([IMAGES[3]])
    assert verdict.action == "block"
    finding = verdict.triggered[0]
    assert (finding.part, finding.nearest) == ("example", str(policy_file.parent / "cross.png"))
    assert finding.score == pytest.approx(1, abs=1e-5)
    assert str(finding).startswith(f"crosses: the image is like the example {policy_file.parent}")


def test_a_prompt_word_for_word_triggers_by_the_text_and_is_named(moderator):
    (verdict,) = moderator.check(texts=["a large red cross on white"])
    finding = verdict.findings[0]
    assert finding.triggered and (finding.part, finding.score) == ("text", pytest.approx(1, abs=1e-5))
    assert str(finding) == 'crosses: the text near "a large red cross on white" (1.000 >= 0.900)'
    assert "image" not in finding.scores and "pair" not in finding.scores


def finding(action, triggered):
    return Finding(action, action, triggered, "image", 0.5, 0.4, "x", {"image": 0.5})


def test_findings_come_most_severe_first():
    verdict = Verdict("block", (finding("flag", True), finding("review", False), finding("block", True)))
    assert [each.action for each in verdict.triggered] == ["block", "flag"]


@pytest.mark.parametrize(
    ("thresholds", "action"),
    [((-1.0, -1.0, -1.0), "block"), ((-1.0, -1.0, 1.0), "review"), ((1.0, 1.0, 1.0), "allow")],
)
def test_the_most_severe_triggered_action_wins(thresholds, action):
    actions = ("flag", "review", "block")
    policy = Policy(
        tuple(Category(a, ("red",), {"image": t}, a) for a, t in zip(actions, thresholds, strict=True))
    )
    assert Moderator(tiny_model(), tiny_processor(), policy).check(IMAGES[:1])[0].action == action


def test_an_unwanted_end_of_a_long_text_is_found():
    model, processor = tiny_model(), tiny_processor()
    padding = " ".join(["blue circle drawn on a grey background ,"] * 12)
    long = f"{padding} a large red cross on white"
    assert torch.equal(encode_texts(model, processor, [padding]), encode_texts(model, processor, [long])), (
        "the model alone sees nothing of the end"
    )
    last = split_long_texts(processor.tokenizer, [long], 32)["input_ids"][-1]
    end = processor.tokenizer.decode(last, skip_special_tokens=True)
    assert end.endswith("a large red cross on white") and len(end) < len(long)
    policy = Policy((Category("end", (end,), {"text": 0.9999, "pair": 0.0}, "block"),))
    moderator = Moderator(model, processor, policy)
    plain, hidden = moderator.check(texts=[padding, long])
    assert (plain.action, hidden.action) == ("allow", "block")
    both = moderator.check(IMAGES[:2], [padding, long])
    with_image = encode_images(model, processor, IMAGES[1:2]) @ encode_texts(model, processor, [end]).T
    assert both[1].findings[0].scores["pair"] == pytest.approx((1 + with_image.item()) / 2, abs=1e-5)


def test_pieces_cover_every_token_and_short_texts_stay_whole():
    tokenizer = tiny_processor().tokenizer
    long = " ".join(["red", "green", "blue"] * 30)
    pieces = split_long_texts(tokenizer, ["a cross", long], 16)
    assert pieces["owner"].tolist() == [0] + [1] * (len(pieces["owner"]) - 1)
    assert pieces["input_ids"].shape[1] == 16
    special = set(tokenizer.all_special_ids)
    covered: list[int] = []
    for ids in pieces["input_ids"][1:].tolist():
        words = [i for i in ids if i not in special]
        overlap = 4 if covered else 0
        assert covered[len(covered) - overlap :] == words[:overlap], "a quarter overlaps"
        covered += words[overlap:]
    assert covered == tokenizer(long, add_special_tokens=False)["input_ids"]


def test_what_cannot_be_checked_is_said(moderator, tmp_path):
    with pytest.raises(ValueError, match="Nothing to check"):
        moderator.check()
    with pytest.raises(ValueError, match="2 images and 1 texts"):
        moderator.check(IMAGES[:2], ["red"])
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"broken\.png"):
        moderator.check([tmp_path / "broken.png"])


def test_policies_made_in_python_are_checked_too():
    with pytest.raises(PolicyError, match="category 'x': the action is 'ban'"):
        Category("x", ("red",), {"image": 0.1}, "ban")
    with pytest.raises(PolicyError, match="category 'x': example images and their threshold"):
        Category("x", ("red",), {"example": 0.1}, "flag")
