"""Promises pinned here:

- `inspect_source` counts images, captions, captions per image, lengths and what would be cut, by hand-worked
  numbers, and prints them;
- `plot_grid` draws any captions and images there are, unreadable ones too, and writes its file whole;
- `hf_customclip.data` costs nothing to import until a name of it is used.
"""

import subprocess
import sys

import datasets
import PIL.Image
import pytest
from miniatures import FLICKR, captions_of, jpeg, kaggle_flickr30k, write_images
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_customclip.data import DataReport, decode_image, inspect_source, load_image_text_dataset, plot_grid


@pytest.fixture
def tokenizer():
    """One token a word, with a [CLS] and a [SEP] around, as a text tower's has."""
    whole = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=whole, model_max_length=4)


@pytest.fixture
def source(tmp_path):
    """Ten images; image n has n % 3 + 1 captions, of n + 1 words each."""
    names = write_images(tmp_path, [f"{n}.jpg" for n in range(10)])
    rows = [f"{n}.jpg,{' '.join(['word'] * (n + 1))}" for n in range(10) for _ in range(n % 3 + 1)]
    (names / "captions.txt").write_text("\n".join(["image,caption", *rows, "10.jpg,no image"]))
    return tmp_path


def test_counts_and_lengths(source, tokenizer):
    report = inspect_source(source, tokenizer=tokenizer, max_text_length=8)
    # n % 3 + 1 for n = 0..9 is 1 2 3 1 2 3 1 2 3 1
    assert report.captions_per_image == {1: 4, 2: 3, 3: 3}
    assert (report.images_in, report.images_out, report.captions_in, report.captions_out) == (11, 10, 20, 19)
    # words: 1 22 333 4 55 666 7 88 999 10, 19 lengths of which the median is the tenth
    assert report.caption_words == {5: 1, 25: 3, 50: 6, 75: 8, 95: 9, 99: 9, 100: 10}
    assert report.caption_tokens == {p: words + 2 for p, words in report.caption_words.items()}
    # longer than 8 tokens are 7 words and more: 7, 8 8, 9 9 9, 10
    assert report.captions_cut == 7
    printed = str(report)
    lines = ("images             10 of 11", "captions           19 of 20", "cut at 8 tokens", "7 captions")
    for text in (*lines, "1: 4, 2: 3, 3: 3", "50%: 6", "50%: 8", "10.jpg", "seed 42"):
        assert text in printed


def test_options_reach_the_loader(source):
    report = inspect_source(source, seed=7, test_fraction=0.3, streaming=True)
    assert report.splits["test"].images == 3 and "seed 7" in report.split_rule
    assert not report.caption_tokens and report.captions_cut is None


def test_the_report_as_plain_values(tmp_path):
    import json

    report = inspect_source(kaggle_flickr30k(tmp_path)[0])
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["images_out"] == 5 and plain["problems"]["repaired_line"]["names"] == ["results.csv line 11"]
    assert plain["splits"]["train"] == {"images": 3, "captions": 15}


def test_an_empty_report_prints():
    assert "images             0 of 0" in str(DataReport())


@pytest.mark.parametrize("name", ["grid.png", "grid.pdf", "grid.jpg"])
def test_plot_grid(tmp_path, name):
    captions = list(captions_of(FLICKR).values())
    captions[0] = ["costs $5 and $6, not \\alpha_2", "x" * 500]
    images = [{"bytes": jpeg(n), "path": None} for n in range(4)] + [{"bytes": b"junk", "path": "bad.jpg"}]
    rows = {"image": images, "captions": captions, "image_id": FLICKR}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    file = plot_grid(dataset, tmp_path / name, rows=2, columns=3)
    assert file == tmp_path / name and file.stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith("png"):
        drawn = {colour for _, colour in PIL.Image.open(file).convert("RGB").getcolors(2**24)}
        assert {decode_image(jpeg(n)).getpixel((0, 0)) for n in range(4)} <= drawn
    assert isinstance(dataset.features["image"], datasets.Image) and dataset.features["image"].decode


def test_plot_grid_of_a_stream_and_at_random(source, tmp_path):
    stream = load_image_text_dataset(source, "train", streaming=True)
    plot_grid(stream, tmp_path / "a.png", rows=1, columns=2)
    plot_grid(load_image_text_dataset(source, "train"), tmp_path / "b.png", rows=1, columns=2, seed=1)
    plot_grid(load_image_text_dataset(source, "train"), tmp_path / "c.png", rows=1, columns=2, seed=1)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_importing_is_cheap():
    code = (
        "import sys, hf_customclip.data as data\n"
        "heavy = {'datasets', 'torch', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "print(sorted(heavy), 'load_image_text_dataset' in dir(data), data.to_rgb.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True hf_customclip.data.images"


def test_unknown_names_are_refused():
    import hf_customclip.data

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_customclip.data.nothing
    assert all(getattr(hf_customclip.data, name) for name in hf_customclip.data.__all__)
