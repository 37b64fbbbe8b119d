"""Search a data set by words, by image, by both, and among some of its images only.

    python examples/search.py                                   # the bundled sample, after `make train`
    python examples/search.py MODEL DATA "words" INDEX_FOLDER

DATA is a data set with the columns `image`, `image_id` and `captions`; its other columns can be filtered by. Run
it again, and nothing is embedded that the index holds already. A folder of images goes to `ImageIndex.build` as
its path; `hf-customclip index` and `search` do the same from the shell.
"""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModel, AutoProcessor

from hf_customclip import ImageIndex

HERE = Path(__file__).resolve().parent


def main(model: str, source: str, words: str, directory: str) -> None:
    """Index, search in four ways, change, save."""
    data = load_dataset(source, split="test")
    index = ImageIndex.build(
        AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model), data, directory=directory
    )
    print(f"{len(index)} images: {index.changes}")

    found = index.search(words, k=3)
    show(f"words: {words!r}", found)
    first = data.filter(lambda image_id: image_id == found[0].id, input_columns="image_id")
    image = first[0]["image"]
    show("the first of them, as an image", index.search(image, k=3))
    show("both", index.search((words, image), k=3))
    if "group" in found[0].metadata:
        show("only animals", index.search(words, k=3, filter={"group": "animals-nature"}))

    index.remove([found[0].id])
    show("without the first", index.search(words, k=3))
    index.add(first)
    index.save()


def show(title: str, results: list) -> None:
    """One line for each image."""
    print(title)
    for result in results:
        print(f"  {result.score:.3f}  {result.id}  {result.metadata['captions'][0]}")


if __name__ == "__main__":
    outputs = HERE.parent / "outputs"
    defaults = [outputs / "sample", HERE / "sample", "a vehicle on the road", outputs / "sample-index"]
    given = sys.argv[1:]
    main(*(str(value) for value in [*given, *defaults[len(given) :]]))
