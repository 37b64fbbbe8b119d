"""Make a folder of web pages that searches images by words, with no server: any static host will do.

    python examples/browser/prepare.py outputs/sample my-images/ site/
    python -m http.server --directory site      # then open http://127.0.0.1:8000

The images are embedded here. The words are embedded in the visitor's browser, by transformers.js and the ONNX text
encoder, and compared with the images' vectors there.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from hf_customclip import load_model
from hf_customclip.export import TEXT_FILE, VISION_FILE, export_onnx
from hf_customclip.inference import encode_images

HERE = Path(__file__).parent
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
THUMBNAIL = (320, 320)


def write_model(model, processor, folder: Path) -> None:
    """Both ONNX graphs and the processor, laid out as transformers.js looks for them."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(model, processor, scratch)
        for file in (TEXT_FILE, VISION_FILE):
            shutil.move(Path(scratch, file), folder / "onnx" / file)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    # transformers.js chooses classes by it: the graphs have the inputs and outputs of CLIP's.
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))


def write_images(model, processor, images: list[Path], folder: Path) -> None:
    """Thumbnails, and their vectors: float32, row after row, in the order of `images.json`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number}.jpg" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        with Image.open(image) as opened:
            small = opened.convert("RGB")
        small.thumbnail(THUMBNAIL)
        small.save(folder / name)
    vectors = encode_images(model, processor, [str(image) for image in images]).cpu().numpy()
    (folder / "vectors.bin").write_bytes(vectors.astype("<f4").tobytes())
    titles = [image.stem for image in images]
    (folder / "images.json").write_text(json.dumps({"names": names, "titles": titles}))


def main(model_folder: str, images: str, site: str) -> None:
    """Write the whole site."""
    found = sorted(path for path in Path(images).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        sys.exit(f"error: there are no images ({', '.join(SUFFIXES)}) in {images}.")
    model, processor = load_model(model_folder)
    write_model(model, processor, Path(site, "model"))
    write_images(model, processor, found, Path(site))
    for name in ("index.html", "search.mjs"):
        shutil.copy(HERE / name, site)
    print(f"{len(found)} images are searchable in {site}: python -m http.server --directory {site}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
