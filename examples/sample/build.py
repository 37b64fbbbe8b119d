"""Builds the bundled sample: Fluent 3D emoji with captions in many languages, as Parquet in `data/`.

Run `python examples/sample/build.py`; it needs `npm` and the npm registry. The data of this folder is already
built, so this is only for those who want to check it or change it. The same tools (see README.md) give the
same bytes.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from captions import LANGUAGES, concept, second_caption, split_of
from PIL import Image

DATA = Path(__file__).with_name("data")
SPLITS = ("train", "validation", "test")

# npm package -> SHA-256 of its archive.
IMAGES = "@lobehub/fluent-emoji-3d@1.1.0"
NAMES = "emojibase-data@17.0.0"
SHA256 = {
    IMAGES: "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    NAMES: "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
}

SIDE = 224
ROWS_IN_A_GROUP = 500
WEBP_QUALITY = 90  # at 224 pixels the best that keeps the three files under 8 MB together

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("string"),
        "concept": datasets.Value("string"),
        "group": datasets.Value("string"),
        **{f"captions_{language}": datasets.List(datasets.Value("string")) for language in LANGUAGES},
    }
)


def download(package: str, folder: Path) -> dict[str, bytes]:
    """The files of an npm package by their path in it; exits with a sentence if it is not the known one."""
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(folder)]
    try:
        name = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"Could not download {package} with npm: {error}")
    archive = (folder / name).read_bytes()
    found = hashlib.sha256(archive).hexdigest()
    if found != SHA256[package]:
        sys.exit(f"{package} has SHA-256 {found}, but this sample was made from {SHA256[package]}.")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = ((member, tar.extractfile(member)) for member in tar if member.isfile())
        return {member.name.removeprefix("package/"): file.read() for member, file in members if file}


def plain(hexcode: str) -> str:
    """A hexcode without the variation selector, which the two packages do not set alike."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def on_white(source: bytes) -> Image.Image:
    """The image on a white square of 224 pixels; transparency would look different in every reader."""
    image = Image.open(io.BytesIO(source)).convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def rows(images: dict[str, bytes], names: dict[str, bytes]) -> list[dict[str, Any]]:
    """One row for each image that has a CLDR label, in CLDR's order.

    emojibase lists skin-tone variants inside their emoji, so they do not come up here.
    """
    by_hexcode = {
        plain(Path(name).stem): file for name, file in sorted(images.items()) if name.endswith(".webp")
    }
    groups = json.loads(names["meta/groups.json"])["groups"]
    emoji = [entry for entry in json.loads(names["en/data.json"]) if plain(entry["hexcode"]) in by_hexcode]
    labels = {language: _labels(names, language) for language in LANGUAGES}
    found, seen = [], set()
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        image = webp(on_white(by_hexcode[plain(entry["hexcode"])]))
        if image in seen:  # the same drawing under a second name: no caption could tell them apart
            continue
        seen.add(image)
        label, image_id = entry["label"], entry["hexcode"].lower()
        found.append(
            {
                "image": {"bytes": image, "path": f"{image_id}.webp"},
                "captions": [label, second_caption(label)],
                "image_id": image_id,
                "concept": concept(label),
                "group": groups[str(entry["group"])],
                **{f"captions_{language}": [label_of[image_id]] for language, label_of in labels.items()},
            }
        )
    return found


def _labels(names: dict[str, bytes], language: str) -> dict[str, str]:
    return {entry["hexcode"].lower(): entry["label"] for entry in json.loads(names[f"{language}/data.json"])}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = rows(download(IMAGES, Path(folder)), download(NAMES, Path(folder)))
    DATA.mkdir(exist_ok=True)
    total = 0
    for split in SPLITS:
        chosen = [row for row in found if split_of(row["concept"]) == split]
        file = DATA / f"{split}-00000-of-00001.parquet"
        unfinished = file.with_suffix(".unfinished")
        table = datasets.Dataset.from_list(chosen, features=FEATURES).data.table
        # `Dataset.to_parquet` has no zstd, which packs nineteen languages a third smaller.
        pq.write_table(
            table, unfinished, compression="zstd", row_group_size=ROWS_IN_A_GROUP, compression_level=19
        )
        os.replace(unfinished, file)
        total += file.stat().st_size
        print(f"{split:<10} {len(chosen):>5} images  {file.stat().st_size / 1e6:.2f} MB")
    print(f"{'in all':<10} {len(found):>5} images  {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
