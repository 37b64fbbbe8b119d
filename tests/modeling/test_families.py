"""Pins: what becomes of a family of towers is "works" (to the end: cached features, saved, loaded by AutoModel and by
the checkpoint's own code in another process, the pipeline) or "refused" in a sentence, and nothing else; of dual
encoders the half is taken, as the right class; docs/towers.md lists what it
claims."""

import re
from collections import Counter
from pathlib import Path

import pytest
from tower_families import MARK, try_families

PAGE = Path(__file__).resolve().parents[2] / "docs" / "towers.md"

# Of each family and tower the class, and a part of the sentence if it is refused.
EXPECTED = {
    ("clip", "vision"): ("CLIPVisionModel", ""),
    ("clip", "text"): ("CLIPTextModel", ""),
    ("siglip", "vision"): ("SiglipVisionModel", ""),
    ("siglip", "text"): ("SiglipTextModel", ""),
    ("siglip2", "vision"): ("Siglip2VisionModel", "spatial_shapes"),  # naflex: patches, not images
    ("siglip2", "text"): ("Siglip2TextModel", ""),
    ("chinese_clip", "vision"): ("ChineseCLIPVisionModel", ""),
    ("chinese_clip", "text"): ("ChineseCLIPTextModel", ""),
    ("metaclip_2", "vision"): ("MetaClip2VisionModel", ""),
    ("metaclip_2", "text"): ("MetaClip2TextModel", ""),
    ("aimv2", "vision"): ("Aimv2VisionModel", ""),
    ("aimv2", "text"): (
        "Aimv2TextModel",
        "alone and beside a longer text",
    ),  # causal only where there is padding
    ("blip", "vision"): ("BlipVisionModel", ""),
    ("blip", "text"): ("BlipTextModel", ""),
    ("altclip", "vision"): ("AltCLIPVisionModel", ""),
    ("altclip", "text"): ("AltCLIPTextModel", ""),
    ("clipseg", "vision"): ("CLIPSegVisionModel", ""),
    ("clipseg", "text"): ("CLIPSegTextModel", ""),
    ("owlvit", "vision"): ("OwlViTVisionModel", ""),
    ("owlvit", "text"): ("OwlViTTextModel", ""),
    ("align", "vision"): ("AlignVisionModel", ""),
    ("align", "text"): ("AlignTextModel", ""),
    ("swin", "vision"): ("SwinModel", ""),
    ("videomae", "vision"): ("VideoMAEModel", "cannot embed images"),
    ("timm/test_mambaout", "vision"): ("TimmWrapperModel", ""),
    ("torchvision/squeezenet1_1", "vision"): ("TorchvisionBackboneModel", ""),
    ("t5", "text"): ("T5EncoderModel", ""),
    ("mamba", "text"): ("MambaModel", ""),
    ("fnet", "text"): ("FNetModel", "alone and beside a longer text"),  # it has no attention mask
    ("dpr", "text"): ("DPRQuestionEncoder", "no last_hidden_state"),
    ("bart", "text"): ("bart", "must be an encoder"),
}


@pytest.fixture(scope="module")
def results():
    return try_families(dict.fromkeys(family for family, _ in EXPECTED))


@pytest.mark.slow
def test_works_or_is_refused(results):
    found = {(result.family, result.kind): result for result in results}
    assert found.keys() == EXPECTED.keys()
    for which, (tower, sentence) in EXPECTED.items():
        result = found[which]
        assert result.outcome == ("refused" if sentence else "works"), result
        assert tower in (result.note if sentence else result.tower) and sentence in result.note, result


def test_the_page_lists_what_it_claims():
    tables = PAGE.read_text().split(MARK)[1]
    for section, least in (("Image", 60), ("Text", 50)):
        table = tables.split(f"## {section} towers\n")[1].split("\n## ")[0]
        claimed = re.search(r"(\d+) families: (\d+) work, (\d+) are refused", table)
        outcomes = Counter(re.findall(r"^\| [^|]+ \| [^|]+ \| (\w+)", table, re.MULTILINE)[1:])
        assert outcomes.keys() <= {"works", "refused"}
        counts = (outcomes.total(), outcomes["works"], outcomes["refused"])
        assert tuple(map(int, claimed.groups())) == counts
        assert counts[0] >= least
