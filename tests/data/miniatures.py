"""Small faithful copies of the forms that image-caption data come in, quirks included; made by the tests."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image, List, Value

# Flickr30k names; the second has the broken row in Kaggle's results.csv.
FLICKR = ["1000092795.jpg", "2199200615.jpg", "1001773457.jpg", "1003163366.jpg", "1007129816.jpg"]
ODD_CAPTIONS = ["NA", "None", "null", "Ein Hund läuft über das Gras 🐕 .", "كلب يجري على العشب ."]


def jpeg(number, size=(16, 12)):
    """An image whose colour tells its number, as JPEG bytes."""
    buffer = BytesIO()
    PIL.Image.new("RGB", size, ((number * 50) % 256, (number * 90) % 256, number % 256)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
    return folder


def captions_of(names, each=5):
    """Five captions an image; the third image has the odd ones."""
    return {
        name: ODD_CAPTIONS if n == 2 else [f"Caption {k} of {name} , with commas ." for k in range(each)]
        for n, name in enumerate(names)
    }


def kaggle_flickr30k(root, names=FLICKR):
    """results.csv with bars, blanks and the broken row, twice; the images in a folder in the folder."""
    captions = captions_of(names)
    captions["2199200615.jpg"] = [*captions["2199200615.jpg"][:4], "A dog runs across the grass ."]
    lines = ["image_name| comment_number| comment"]
    for name, texts in captions.items():
        lines += [f"{name}| {k}|  {text}" for k, text in enumerate(texts)]
    broken = lines.index("2199200615.jpg| 4|  A dog runs across the grass .")
    lines[broken] = "2199200615.jpg| 4   A dog runs across the grass ."
    folder = root / "flickr30k_images"
    write_images(folder / "flickr30k_images", names)
    (folder / "results.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "flickr30k_images" / "results.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root, captions


def token_file(root, names=FLICKR, file="results_20130124.token", images="flickr30k-images"):
    captions = captions_of(names)
    lines = [f"{name}#{k}\t{text}" for name, texts in captions.items() for k, text in enumerate(texts)]
    write_images(root / images, names)
    (root / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root, captions


def karpathy_content(captions, splits, **extra):
    images = []
    for number, (name, texts) in enumerate(captions.items()):
        ids = list(range(5 * number, 5 * number + len(texts)))
        sentences = [
            {"raw": text, "tokens": text.lower().split(), "imgid": number, "sentid": sentid}
            for text, sentid in zip(texts, ids, strict=True)
        ]
        image = {"filename": name, "imgid": number, "sentids": ids, "split": splits[number]}
        images.append({**image, "sentences": sentences, **{k: v(number) for k, v in extra.items()}})
    return {"images": images, "dataset": "flickr30k"}


def karpathy(root, names=FLICKR, splits=("train", "train", "val", "test", "train")):
    captions = captions_of(names)
    write_images(root / "flickr30k-images", names)
    (root / "dataset_flickr30k.json").write_text(json.dumps(karpathy_content(captions, splits)))
    return root, captions


def flickr8k(root):
    """The authors' Flickr8k: token file, lemmas, judgements, split lists, and one name without an image."""
    names = [f"{number}_{number:010x}.jpg" for number in range(1000, 1008)]
    token_file(root, names, "Flickr8k.token.txt", "Flicker8k_Dataset")
    captions = captions_of(names)
    with (root / "Flickr8k.token.txt").open("a", encoding="utf-8") as file:
        for k in range(5):
            file.write(f"2258277193_586949ec62.jpg.1#{k}\tSome people at a table .\n")
    (root / "Flickr8k.lemma.token.txt").write_text(f"{names[0]}#0\tcaption of lemma\n")
    (root / "ExpertAnnotations.txt").write_text(f"{names[0]}\t{names[1]}#2\t1\t1\t1\n")
    (root / "CrowdFlowerAnnotations.txt").write_text(f"{names[0]}\t{names[1]}#2\t0\t0\t3\n")
    (root / "readme.txt").write_text("If you publish work based on this data set ...\n")
    for split, part in (
        ("train", names[:4]),
        ("dev", names[4:5]),
        ("test", names[5:7]),
    ):  # the last is in none
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n")
    return root, captions


def coco(root, year="2017"):
    """annotations/captions_{train,val}.json with a folder of images for each, ids that are not names."""
    captions = {}
    (root / "annotations").mkdir(parents=True)
    for split, ids in (("train", [9, 25, 30]), ("val", [139, 285])):
        names = {number: f"{number:012d}.jpg" for number in ids}
        write_images(root / f"{split}{year}", names.values())
        texts = {number: [f"Caption {k} of {number}." for k in range(5)] for number in ids}
        captions.update({str(number): texts[number] for number in ids})
        annotations = [
            {"image_id": number, "id": 100 * number + k, "caption": texts[number][k]}
            for k in range(5)  # an image's captions do not stand together
            for number in ids
        ]
        images = [
            {"id": number, "file_name": name, "coco_url": "http://..."} for number, name in names.items()
        ]
        content = {"info": {"year": int(year)}, "licenses": [], "images": images, "annotations": annotations}
        (root / "annotations" / f"captions_{split}{year}.json").write_text(json.dumps(content))
        boxes = {"images": images, "annotations": [{"image_id": ids[0], "bbox": [0, 0, 1, 1]}]}
        (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(boxes))
    return root, captions


def karpathy_coco(root):
    names = [f"COCO_val2014_{number:012d}.jpg" for number in (391895, 522418, 184613, 318219)]
    captions = captions_of(names)
    content = karpathy_content(
        captions,
        ["test", "restval", "val", "train"],
        filepath=lambda n: "val2014",
        cocoid=lambda n: int(names[n][-16:-4]),
    )
    write_images(root / "val2014", names)
    (root / "dataset_coco.json").write_text(json.dumps(content))
    return root, {str(int(name[-16:-4])): texts for name, texts in captions.items()}


def imagefolder(root, suffix="csv", splits=("train", "validation", "test")):
    """Images of the same names in a folder for each split, with its metadata file."""
    captions = {}
    for split in splits:
        names = ["0001.jpg", "0002.jpg"]
        write_images(root / split, names)
        rows = [(name, f'A "{split}" image, {name}') for name in names]
        captions.update({(split, name): [text] for name, text in rows})
        if suffix == "csv":
            lines = ["file_name,text"] + [
                f'{name},"{text.replace(chr(34), chr(34) * 2)}"' for name, text in rows
            ]
            (root / split / "metadata.csv").write_text("\n".join(lines))
        else:
            lines = [json.dumps({"file_name": name, "captions": [text]}) for name, text in rows]
            (root / split / "metadata.jsonl").write_text("\n".join(lines))
    return root, captions


PARQUET_FEATURES = Features(
    {
        "image": Image(),
        "caption": List(Value("string")),
        "sentids": List(Value("string")),
        "split": Value("string"),
        "img_id": Value("string"),
        "filename": Value("string"),
    }
)


def hub_rows(names, split, caption="caption", first=0):
    return {
        "image": [{"bytes": jpeg(n), "path": name} for n, name in enumerate(names, first)],
        caption: list(captions_of(names).values()),
        "sentids": [[str(k) for k in range(5)] for _ in names],
        "split": [split] * len(names),
        "img_id": [str(n) for n in range(first, first + len(names))],
        "filename": list(names),
    }


def hub_parquet(root, caption="caption", splits=("train", "val", "test")):
    """umaru97/flickr30k_train_val_test, AnyModal/flickr30k: Parquet files under data/, one split each."""
    (root / "data").mkdir(parents=True)
    captions = {}
    for number, split in enumerate(splits):
        names = [f"{number}{name}" for name in FLICKR[: 4 - number]]
        captions.update(captions_of(names))
        features = Features({caption if k == "caption" else k: v for k, v in PARQUET_FEATURES.items()})
        rows = Dataset.from_dict(hub_rows(names, split, caption, 10 * number), features=features)
        rows.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root, captions


def hub_test_only(root, names=FLICKR):
    """lmms-lab/flickr30k: everything in a split called test, and no split column."""
    (root / "data").mkdir(parents=True)
    rows = Dataset.from_dict(hub_rows(names, "test"), features=PARQUET_FEATURES).remove_columns("split")
    rows.to_parquet(root / "data" / "test-00000-of-00001.parquet")
    return root, captions_of(names)


def hub_long(root, names=FLICKR, file="train", with_names=True):
    """phiyodr/flickr30k_long: one row for each caption, the image repeated."""
    (root / "data").mkdir(parents=True)
    captions = captions_of(names)
    rows = [(n, name, text) for n, name in enumerate(names) for text in captions[name]]
    columns = {
        "image": [{"bytes": jpeg(n), "path": name if with_names else None} for n, name, _ in rows],
        "caption": [text for _, _, text in rows],
    }
    features = {"image": Image(), "caption": Value("string")}
    if with_names:
        columns["filename"], features["filename"] = [name for _, name, _ in rows], Value("string")
    Dataset.from_dict(columns, features=Features(features)).to_parquet(root / "data" / f"{file}.parquet")
    return root, captions


def saved_to_disk(root, names=FLICKR):
    rows = Dataset.from_dict(hub_rows(names, "train"), features=PARQUET_FEATURES)
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(root)
    return root, captions_of(names)


def webdataset(root, names=FLICKR, text="json", shards=2):
    """Shards of key.jpg beside key.txt, or key.json with a list of captions."""
    root.mkdir(parents=True, exist_ok=True)
    captions = {Path(name).stem: texts for name, texts in captions_of(names).items()}
    for shard in range(shards):
        with tarfile.open(root / f"shard-{shard:03d}.tar", "w") as tar:
            for number, (key, texts) in list(enumerate(captions.items()))[shard::shards]:
                body = json.dumps({"captions": texts}) if text == "json" else texts[0]
                for suffix, data in (("jpg", jpeg(number)), (text, body.encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    return root, captions if text == "json" else {key: texts[:1] for key, texts in captions.items()}


def colours(dataset):
    """The colour of each row's image, to know it by."""
    return [np.asarray(row["image"].convert("RGB"))[0, 0].tolist() for row in dataset]
