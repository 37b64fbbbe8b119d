"""The model card.

Pinned: nothing is invented (a bare model gives a card without data, training, numbers or languages, and no
path of this machine); everything given is there; the metadata hold the Hub's fields and the measured numbers
survive the way through YAML; tables are well-formed; the Python in it is valid; the parameters are those
that training would change, counted independently by torch; the same template is found in a checkout.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_customclip import CustomClipConfig
from hf_customclip._safetensors import count_parameters, read_headers, weight_files
from hf_customclip.hub import (
    DataDescription,
    RetrievalResult,
    describe_data,
    render_model_card,
    write_model_card,
)  # fmt: skip
from hf_customclip.hub.check_folder import published_files
from hf_customclip.hub.model_card import template_path, training_settings
from hf_customclip.hub.results import newest_results

from .folders import save_ready, seeded_model

METRICS = {
    f"{way}_{name}": value
    for way, plus in (("i2t", 0.0), ("t2i", 0.01))
    for name, value in {
        "recall@1": 0.25 + plus, "recall@5": 0.5, "recall@10": 0.625, "median_rank": 4.5, "mean_rank": 20.25,
    }.items()
} | {"rsum": 276.0}  # fmt: skip
EVALUATIONS = ("eval_loss", "eval_i2t_recall@1", "eval_t2i_recall@1", "eval_rsum")
HISTORY = [
    {"loss": 4.8, "step": 10, "epoch": 0.5},
    {"step": 20, "epoch": 1.0, **dict(zip(EVALUATIONS, (4.5, 0.2, 0.19, 200.0), strict=True))},
    {"loss": 4.1, "step": 30, "epoch": 1.5},
    {"step": 40, "epoch": 2.0, **dict(zip(EVALUATIONS, (4.2, 0.25, 0.26, 276.0), strict=True))},
]
FLICKR = describe_data("umaru97/flickr30k_train_val_test", {"train": 29_000, "val": 1_014, "test": 1_000})


def config(**fields: object) -> CustomClipConfig:
    names = {"vision_name": "resnet34", "text_name": "distilbert/distilbert-base-multilingual-cased"}
    return CustomClipConfig(vision_config={"model_type": "torchvision_backbone"}, **{**names, **fields})


def full_card() -> ModelCard:
    result = RetrievalResult(METRICS, "test", 1_000, 5_000, data=FLICKR)
    return render_model_card(
        config(),
        "alice/clip-flickr30k",
        data=FLICKR,
        parameters=(1_181_697, 157_000_000),
        tower_licenses={"distilbert/distilbert-base-multilingual-cased": "Apache-2.0"},
        settings={"learning rate": 0.001, "optimizer": "adamw|torch"},
        log_history=HISTORY,
        images={"training": "training.png", "retrieval": "retrieval.png"},
        results=[result],
    )


def tables(text: str) -> list[list[str]]:
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [table.strip().split("\n") for table in found]


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_metadata_are_the_hubs_fields() -> None:
    data = full_card().data.to_dict()
    assert data["license"] == "other" and data["license_name"]
    assert data["license_link"].startswith("https://")
    assert data["language"] == ["en"]
    assert data["pipeline_tag"] == "zero-shot-image-classification"
    assert data["library_name"] == "transformers"
    assert data["base_model"] == ["distilbert/distilbert-base-multilingual-cased"]
    assert data["datasets"] == ["umaru97/flickr30k_train_val_test"]
    assert data["metrics"] == ["recall"]
    assert {"clip", "custom_clip"} <= set(data["tags"])


def test_measured_numbers_survive_in_the_model_index(tmp_path: Path) -> None:
    full_card().save(tmp_path / "README.md")
    entries = getattr(ModelCard.load(tmp_path / "README.md").data, "eval_results")  # noqa: B009
    measured = {entry.metric_type: entry.metric_value for entry in entries}
    assert measured["i2t_recall@1"] == 0.25 and measured["t2i_recall@1"] == 0.26
    assert measured["rsum"] == 276.0 and measured["t2i_median_rank"] == 4.5
    assert {entry.dataset_type for entry in entries} == {"umaru97/flickr30k_train_val_test"}
    assert {entry.dataset_split for entry in entries} == {"test"}


def test_everything_given_is_there() -> None:
    text = str(full_card())
    for expected in (
        "1,181,697 trained of 157,000,000",
        "torchvision's [`resnet34`](https://docs.pytorch.org/",
        "https://huggingface.co/distilbert/distilbert-base-multilingual-cased) | frozen | Apache-2.0 |",
        "| train | 29,000 |",
        "non-commercial research and education only",
        "| learning rate | 0.001 |",
        "![Loss and recalls over the steps](training.png)",
        "(retrieval.png)",
        "| 1 | 20 | 4.8 | 4.5 | 0.2 | 0.19 | 200 |",
        "| image to text | 25.0 | 50.0 | 62.5 | 4.5 |",
        "| text to image | 26.0 | 50.0 | 62.5 | 4.5 |",
        "Sum of the six recalls: 276.0 of 600.",
        "1,000 images and 5,000 captions",
        "van Miltenburg",
        "young2014image",
        'pipeline("zero-shot-image-classification", model="alice/clip-flickr30k", trust_remote_code=True)',
    ):
        assert expected in text, expected


def test_tables_and_blocks_are_well_formed() -> None:
    text = str(full_card())
    found = tables(text)
    assert len(found) == 5  # towers, splits, settings, history, retrieval
    for table in found:
        assert {cells(line) for line in table} == {cells(table[0])}, table
        assert re.fullmatch(r"\|(-+\|)+", table[1])
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # model, pipeline with and without the plugin, search, embeddings, sentence-transformers
    assert len(blocks) == 6
    for block in blocks:
        ast.parse(block)
    assert "\n\n\n" not in text and not re.search(r"\{[{%]", text) and "None" not in text


def test_nothing_is_invented(tmp_path: Path) -> None:
    tower = tmp_path / "my-tower"
    tower.mkdir()
    card = render_model_card(config(text_name=str(tower), vision_name=str(tower)), "alice/m")
    text = str(card)
    for absent in ("## Data", "## Training", "## Retrieval", "Captions were", "Flickr", str(tmp_path), "R@1"):
        assert absent not in text, absent
    assert "none were measured" in text
    assert set(card.data.to_dict()) == {"license", "library_name", "pipeline_tag", "tags"}
    assert card.data.to_dict()["license"] == "unknown"


def test_the_protocol_says_when_numbers_do_not_compare() -> None:
    small = RetrievalResult(METRICS, "test", 185, 370).protocol
    assert "185 images and 370 captions" in small and "do not compare with those over 1,000" in small
    assert "do not compare" not in RetrievalResult(METRICS, "test", 1_000, 5_000).protocol


def test_chance_and_intervals_stand_beside_what_was_measured() -> None:
    chance = {**dict.fromkeys(METRICS, 0.001), "rsum": 0.6}
    intervals = {"t2i_recall@1": (0.2404, 0.281), "rsum": [250.04, 300.0]}
    result = RetrievalResult(METRICS, "test", 10, 20, chance=chance, intervals=intervals)
    assert [row[0] for row in result.rows] == ["image to text", "by chance", "text to image", "by chance"]
    assert result.rows[1][1:4] == ["0.1", "0.1", "0.1"]
    assert result.rows[2][1:3] == ["26.0 [24.0, 28.1]", "50.0"]
    assert result.rsum == "276.0 [250.0, 300.0] of 600 (by chance 0.6)"
    assert "In brackets where each lies at 95 %" in result.protocol
    assert "brackets" not in RetrievalResult(METRICS).protocol


@pytest.mark.parametrize(
    ("source", "name", "hub_id", "terms"),
    [
        ("nlphuji/flickr30k", "Flickr30k", "nlphuji/flickr30k", "Flickr's terms"),
        ("data/flickr30k_images", "Flickr30k", "data/flickr30k_images", "Flickr's terms"),
        ("/data/Flickr_8k/captions.txt", "Flickr8k", None, "Flickr's terms"),
        ("/data/coco/annotations/captions_val2017.json", "COCO", None, "CC BY 4.0"),
        ("/data/coconuts", "coconuts", None, None),
        ("alice/birds", "alice/birds", "alice/birds", None),
    ],
)
def test_well_known_data_are_recognised(
    source: str, name: str, hub_id: str | None, terms: str | None
) -> None:
    data = describe_data(source)
    assert (data.name, data.hub_id) == (name, hub_id)
    assert (terms in (data.terms or "")) if terms else data.terms is None
    assert data.languages == (("en",) if terms else ())


def test_the_licence_asked_for_wins() -> None:
    card = render_model_card(config(), "alice/m", data=FLICKR, license="cc-by-nc-4.0")
    assert card.data.to_dict()["license"] == "cc-by-nc-4.0" and "license_name" not in card.data.to_dict()


def test_sigmoid_linear_partly_frozen_and_timm_are_said() -> None:
    changed = config(
        loss_type="sigmoid", projection_type="linear", text_unfrozen_groups=2, freeze_vision=False
    )
    text = str(render_model_card(changed, "alice/m"))
    assert "sigmoid (SigLIP's)" in text and "one linear layer for each tower" in text
    assert "frozen but for the last 2 layer groups" in text and "zhai2023sigmoid" in text
    assert re.search(r"\| image \| .* \| trained \|", text)
    timm = {"model_type": "timm_wrapper", "architecture": "tf_efficientnet_lite0"}
    card = str(render_model_card(CustomClipConfig(vision_config=timm), "a/m"))
    assert "| image | timm's `tf_efficientnet_lite0` |" in card


def test_a_history_is_thinned_to_its_last_and_a_step_has_one_row_the_first() -> None:
    def table_of(history: list[dict[str, float]]) -> list[str]:
        card = str(render_model_card(config(), "a/m", log_history=history))
        (table,) = [found for found in tables(card) if "step" in found[0]]
        return table

    long = table_of([{"loss": 5 - i / 100, "step": i} for i in range(100)])
    assert 6 <= len(long) - 2 <= 12 and long[-1].startswith("| 99 |")
    # The evaluation after training is of the best model, whose step it is not.
    twice = table_of([*HISTORY, {"step": 40, "epoch": 2.0, "eval_loss": 4.0}])
    assert len(twice) == 4 and twice[-1].startswith("| 2 | 40 | 4.1 | 4.2 |")


def test_parameters_are_counted_as_torch_counts_them(tmp_path: Path) -> None:
    model = seeded_model()
    model.save_pretrained(tmp_path)
    tensors = read_headers(weight_files(tmp_path))
    for change in (model.freeze, lambda: model.unfreeze("text")):
        change()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        assert count_parameters(tensors, model.config.to_dict()) == (trained, total)
    model.freeze()
    model.unfreeze("text", last_groups=1)
    assert count_parameters(tensors, model.config.to_dict())[0] is None


def test_settings_leave_out_what_says_nothing() -> None:
    told: dict[str, object] = {"learning_rate": 1e-3, "num_train_epochs": 3.0, "bf16": True, "seed": 42}
    silent = {"max_steps": -1, "warmup_steps": 0, "weight_decay": 0.0, "fp16": False}
    arguments = {**told, **silent, "gradient_accumulation_steps": 1, "output_dir": "/home/alice/x"}
    assert training_settings(arguments) == {"epochs": 3.0, "learning rate": 1e-3, "seed": 42, "bf16": "yes"}
    assert training_settings({**arguments, "max_steps": 50})["steps"] == 50
    assert "epochs" not in training_settings({**arguments, "max_steps": 50})


def left_by_a_run(folder: Path, **files: object) -> Path:
    """A model's folder with JSON files of these names."""
    save_ready(folder)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_a_folders_card_tells_what_lies_in_it(tmp_path: Path) -> None:
    arguments = {"learning_rate": 0.5, "output_dir": "/secret"}
    folder = left_by_a_run(tmp_path, training_args=arguments, trainer_state={"log_history": HISTORY})
    write_model_card(folder, "alice/m", data=DataDescription("Ten birds", languages=("de",)))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Trained on Ten birds." in text and "Captions were in German." in text
    assert "| learning rate | 0.5 |" in text and "| 2 | 40 | 4.1 | 4.2 |" in text
    assert "/secret" not in text
    assert ("![" in text) == (folder / "training.png").exists()


def test_a_run_wrote_down_its_data_and_numbers(tmp_path: Path) -> None:
    history = [*HISTORY, {f"test_{name}": value for name, value in METRICS.items()} | {"step": 40}]
    described = dataclasses.asdict(DataDescription("Ten birds", splits={"train": 8}, languages=("de",)))
    folder = left_by_a_run(tmp_path, trainer_state={"log_history": history}, data=described)
    write_model_card(folder, "alice/m")
    card = ModelCard.load(folder / "README.md")
    assert "Trained on Ten birds." in card.text and card.data.language == ["de"]
    entries = {entry.metric_type: entry for entry in card.data.eval_results or []}
    assert entries["t2i_recall@1"].metric_value == METRICS["t2i_recall@1"]
    assert entries["t2i_recall@1"].dataset_split == "test"
    assert "data.json" not in published_files(folder)


def test_what_the_run_measured_of_the_saved_model_wins(tmp_path: Path) -> None:
    entry = {"split": "test", "num_images": 8, "num_captions": 16, "metrics": METRICS}
    other = {"step": 1, **{f"test_{name}": 0.5 for name in METRICS}}
    folder = left_by_a_run(
        tmp_path,
        retrieval_results=[entry],
        trainer_state={"log_history": [other]},
        training_args={"license": "cc-by-4.0"},
    )
    (folder / "retrieval.png").write_bytes(b"png")
    write_model_card(folder, "alice/m")
    card = ModelCard.load(folder / "README.md")
    assert "| text to image | 26.0 | 50.0 | 62.5 | 4.5 |" in card.text
    assert card.text.count("## Retrieval") == 1
    assert "8 images and 16 captions, held out" in card.text and "(retrieval.png)" in card.text
    assert card.data.license == "cc-by-4.0"
    write_model_card(folder, "alice/m", license="mit")
    assert ModelCard.load(folder / "README.md").data.license == "mit"


def test_a_folder_is_no_hub_id_and_its_own_dataset_card_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/flickr30k").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert describe_data("data/flickr30k").hub_id is None
    (tmp_path / "README.md").write_text("---\npretty_name: Ten birds\nlicense: mit\nlanguage: [de]\n---\n")
    data = describe_data(str(tmp_path), {"train": 8})
    assert (data.name, data.languages, data.hub_id) == ("Ten birds", ("de",), None)
    assert "mit" in str(data.terms) and data.license is None
    (tmp_path / "README.md").write_text("Just words.\n")
    assert describe_data(str(tmp_path)).name == tmp_path.name


def test_a_teacher_is_named_as_extra_supervision(tmp_path: Path) -> None:
    assert "teacher" not in str(render_model_card(config(), "someone/model"))
    arguments = {"teacher": str(tmp_path / "runs" / "big-one"), "distillation_weight": 2.0}
    folder = save_ready(tmp_path / "model")
    card = write_model_card(folder, "someone/model", arguments=arguments).read_text()
    assert re.search(r"Extra supervision:.*`big-one`", card) and str(tmp_path) not in card
    assert "| weight of the teacher's loss | 2.0 |" in card and "images without captions" not in card
    arguments["unpaired_images"] = "more"
    card = write_model_card(folder, "someone/model", arguments=arguments).read_text()
    assert card.count("images without captions") == 2, "as supervision, and in what the model has seen"
    card = write_model_card(folder, "a/b", arguments={"teacher": "openai/clip-vit-base-patch32"}).read_text()
    assert "`openai/clip-vit-base-patch32`" in card


def test_the_template_is_the_one_at_the_root() -> None:
    assert template_path().read_text(encoding="utf-8").startswith("---\n{{ card_data }}\n---\n")


def test_languages_trained_and_measured_are_in_the_card_and_its_index() -> None:
    spoken = {f"{name}_{code}": value / 2 for code in ("ar", "de") for name, value in METRICS.items()}
    data = DataDescription("Drawings", languages=("de", "en"))
    result = RetrievalResult({**METRICS, **spoken}, "test", 184, 736, data=data)
    card = str(render_model_card(config(), "alice/m", data=data, results=[result]))
    assert "Captions were in German, English." in card and "Each language is measured alone" in card
    assert "| German (trained) |" in card
    assert f"| Arabic | {50 * METRICS['t2i_recall@1']:.1f} |" in card
    listed = {entry.metric_type: entry.metric_value for entry in result.eval_results()}
    assert listed["t2i_recall@1_de"] == pytest.approx(METRICS["t2i_recall@1"] / 2)
    history = [{"step": 1, **{f"test_{name}": value for name, value in {**METRICS, **spoken}.items()}}]
    assert newest_results(history, data)[0].language_rows == result.language_rows
