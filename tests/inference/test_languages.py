"""Pins: a query in Chinese or Arabic finds the right image first, by `ImageIndex`, the `search` command and the demo;
labels in these languages classify it. The model is a tiny one that has learnt eight drawings by heart."""

import json

import pytest
import torch
import transformers as tr
from datasets import Dataset
from tiny import tiny_dataset, tiny_model

from hf_customclip import CustomClipProcessor, ImageIndex
from hf_customclip.inference import ZeroShotClassifier
from hf_customclip.inference.load_model import load_model

COLOURS = {"red": ("红色", "أحمر"), "green": ("绿色", "أخضر")}
SHAPES = {
    "square": ("方块", "مربع"),
    "circle": ("圆", "دائرة"),
    "triangle": ("三角形", "مثلث"),
    "cross": ("叉", "صليب"),
}


def captions(english):
    """The Chinese and the Arabic one of "a large red square on white"."""
    _, _, colour, shape, *_ = english.split()
    (chinese, arabic), (chinese_shape, arabic_shape) = COLOURS[colour], SHAPES[shape]
    return [f"{chinese}的{chinese_shape}", f"{arabic_shape} {arabic} كبير"]


@pytest.fixture(scope="module")
def drawings():
    rows = tiny_dataset(8)
    said = [captions(each[0]) for each in rows["captions"]]
    return Dataset.from_dict(
        {"image": rows["image"], "captions": said, "image_id": [str(number) for number in range(8)]}
    )


@pytest.fixture(scope="module")
def learnt(drawings):
    """Model and processor, the tokenizer made of the captions' letters."""
    texts = [text for row in drawings["captions"] for text in row]
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = tr.DistilBertTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, strip_accents=False
    )
    tokenizer.model_max_length = 32
    processor = CustomClipProcessor(
        tr.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False), tokenizer
    )
    model = tiny_model(freeze_vision=False, freeze_text=False, projection_dropout=0.0, same_image="positive")
    torch.manual_seed(0)
    model.text_model.resize_token_embeddings(len(tokenizer))
    model.config.text_config.vocab_size = len(tokenizer)
    images = [row.convert("RGB").resize((32, 32)) for row in drawings["image"]]
    inputs = processor(images=images * 2, text=texts[::2] + texts[1::2], padding=True, return_tensors="pt")
    ids = torch.arange(8).repeat(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**inputs, image_ids=ids, return_loss=True).loss
        loss.backward()
        optimizer.step()
    return model.eval(), processor


@pytest.fixture(scope="module")
def index(learnt, drawings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("languages")
    (folder / "images").mkdir()
    for number, image in enumerate(drawings["image"]):
        image.convert("RGB").resize((32, 32)).save(folder / "images" / f"{number}.png")
    for part in learnt:
        part.save_pretrained(folder / "model")
    saved = load_model(folder / "model")  # by whose name the command finds it again
    return ImageIndex.build(*saved, folder / "images", directory=folder / "index"), folder


@pytest.mark.parametrize("language", [0, 1], ids=["Chinese", "Arabic"])
def test_search_finds_the_right_image_first(index, drawings, language):
    queries = [row[language] for row in drawings["captions"]]
    found = index[0].search(queries, 1)
    assert [results[0].id for results in found] == [f"{number}.png" for number in range(8)]


@pytest.mark.parametrize("language", [0, 1], ids=["Chinese", "Arabic"])
def test_the_command_takes_the_words_as_they_are(index, drawings, language, capsys):
    from hf_customclip.cli import main

    query = drawings["captions"][5][language]
    with pytest.raises(SystemExit) as ended:
        main(["search", str(index[1] / "index"), query, "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "5.png"


@pytest.mark.parametrize("language", [0, 1], ids=["Chinese", "Arabic"])
def test_labels_in_the_language_classify(learnt, drawings, index, language):
    labels = [row[language] for row in drawings["captions"]]
    classifier = ZeroShotClassifier(*learnt, labels, "{}")
    images = [str(index[1] / "images" / f"{number}.png") for number in range(8)]
    assert [guesses[0]["label"] for guesses in classifier.predict(images)] == labels


def test_the_demo_searches_and_classifies_in_any_language(learnt, drawings, index):
    pytest.importorskip("gradio")
    from PIL import Image

    from hf_customclip.demo import build_demo

    page = build_demo(*learnt, index=index[0], images=index[1] / "images")
    functions = {function.fn.__name__: function.fn for function in page.fns.values()}
    for number, (chinese, arabic) in enumerate(drawings["captions"]):
        for query in (chinese, arabic):
            assert functions["search"](query, None, 8)[0][0][1].endswith(f"  {number}")
    labels = "\N{FULLWIDTH COMMA}".join(row[0] for row in drawings["captions"])
    scores = functions["classify"](Image.open(index[1] / "images" / "3.png"), labels, "{}")
    assert max(scores, key=scores.get) == drawings["captions"][3][0] and len(scores) == 8
