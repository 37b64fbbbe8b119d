"""Search on the page: words, an image or both, filters from the index's columns, results that open large.

Annotations are evaluated here, as Gradio looks for its event among them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc

from ..data.images import to_rgb

if TYPE_CHECKING:
    from ..search import ImageIndex, SearchResult

COUNTS = [12, 24, 48]
LARGE = (1000, 1000)
# Columns with so few different values become a choice.
MOST_FILTERS, MOST_VALUES = 4, 30
EXAMPLES = ["a person outdoors", "something red", "an animal", "a building"]
CSS = """
#search-found .grid-wrap {max-height: none; overflow-y: visible}
#search-found .grid-container {grid-template-columns: repeat(auto-fill, minmax(min(150px, 44%), 1fr)) !important;
  grid-template-rows: none !important; height: auto}
#search-found .grid-container .thumbnail-item {display: flex; flex-direction: column; height: auto; aspect-ratio: auto}
#search-found .grid-container .thumbnail-item img {height: auto; aspect-ratio: 1; width: 100%}
#search-found .caption-label {position: static; max-width: 100%; white-space: normal; text-align: start;
  overflow-wrap: anywhere; background: none; border: 0; box-shadow: none}
#search-found:has(.preview) .grid-wrap {display: none}
#search-found .preview {position: relative; height: min(75vh, 640px); background: none; backdrop-filter: none}
@media (max-width: 500px) {.gradio-container {padding: 4px !important} #search-image {height: 140px !important}}
"""


def search_tab(
    gr: Any, index: "ImageIndex", images: Path | None, options: dict[str, Any], image_box: dict[str, Any]
) -> None:
    """Add the tab; `options` are those of its events, `image_box` those of its image."""
    choices = filter_choices(index)

    def search(
        words: str, image: PIL.Image.Image | None, count: int, *chosen: list[Any]
    ) -> tuple[Any, str, Any, str]:
        words = words.strip()
        if not words and image is None:
            return [], "Say what to look for: words, an image, or both.", [], ""
        query: Any = (words, to_rgb(image)) if words and image else words or to_rgb(image)  # type: ignore[arg-type]
        condition = {name: values for name, values in zip(choices, chosen, strict=False) if values}
        try:
            found = index.search(query, int(count), filter=condition or None)
        except (ValueError, OSError) as error:
            return [], str(error), [], ""
        shown = [(_image(index, each.id, images), f"{each.score:.3f}  {_name(each)}") for each in found]
        message = (
            f"{len(found)} of {len(index):,} images, the best first."
            if found
            else "No image meets the filters."
        )
        return shown, message, found, ""

    def describe(found: list[Any], event: gr.SelectData) -> str:
        each = found[event.index]
        lines = [f"**{each.id}**, cosine {each.score:.3f}"]
        return "\n".join(
            [*lines, "", *(f"- {name}: {_text(value)}" for name, value in each.metadata.items())]
        )

    with gr.Tab("Search", id="search"):
        with gr.Row():
            with gr.Column(scale=2, min_width=240):
                words = gr.Textbox(
                    label=f"Words: what to look for among {len(index):,} images",
                    placeholder="a red car",
                    elem_id="search-words",
                )
                filters = [
                    gr.Dropdown(values, multiselect=True, label=name, elem_id=f"search-filter-{place}")
                    for place, (name, values) in enumerate(choices.items())
                ]
                count = gr.Radio(COUNTS, value=COUNTS[0], label="Results", elem_id="search-count")
                button = gr.Button("Search", variant="primary", elem_id="search-go")
            image = gr.Image(
                label="Or an image, or both", **image_box, height=220, min_width=240, elem_id="search-image"
            )
        message = gr.Markdown("Found images are shown here, the best first.", elem_id="search-message")
        details = gr.Markdown(elem_id="search-details")
        gallery = gr.Gallery(
            show_label=False,
            height="auto",
            object_fit="contain",
            interactive=False,
            buttons=[],
            elem_id="search-found",
        )
        kept = gr.State([])
        inputs, outputs = [words, image, count, *filters], [gallery, message, kept, details]
        examples = [[text] for text in _examples(index)]
        gr.Examples(examples, [words], elem_id="search-examples", cache_examples=False)
    for event in (button.click, words.submit):
        event(search, inputs, outputs, api_name="search", **options)
    gallery.select(describe, [kept], details, api_visibility="private")


def filter_choices(index: "ImageIndex") -> dict[str, list[Any]]:
    """The metadata columns with few different values, and these values."""
    found: dict[str, list[Any]] = {}
    for field in index.schema:
        simple = (
            pa.types.is_string(field.type)
            or pa.types.is_integer(field.type)
            or pa.types.is_boolean(field.type)
        )
        if not simple or field.name in ("id", "path") or len(found) == MOST_FILTERS:
            continue
        values: set[Any] = set()
        for batch in index.table.batches([field.name]):
            values.update(pc.unique(batch[field.name]).to_pylist())
            if len(values) > MOST_VALUES:
                break
        values.discard(None)
        if 1 < len(values) <= MOST_VALUES:
            found[field.name] = sorted(values)
    return found


def _examples(index: "ImageIndex") -> list[str]:
    """Captions of the index, where it has some."""
    if "captions" not in index.schema.names:
        return EXAMPLES
    rows = next(iter(index.table.batches(["captions"])), None)
    texts = [] if rows is None else [captions[0] for captions in rows["captions"].to_pylist() if captions]
    return texts[:: max(1, len(texts) // 4)][:4] or EXAMPLES


def _name(found: "SearchResult") -> str:
    """What stands below an image: its first caption, or else what its file is called."""
    captions = found.metadata.get("captions")
    return captions[0] if isinstance(captions, list) and captions else Path(found.id).stem or found.id


def _text(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _image(index: "ImageIndex", name: str, images: Path | None) -> PIL.Image.Image:
    """An image of the index, a grey one where nothing of it is there."""
    file = images / name if images else None
    image = PIL.Image.open(file) if file and file.is_file() else index.image(name)
    if image is None:
        return PIL.Image.new("RGB", (400, 400), "lightgrey")
    image = to_rgb(image)
    image.thumbnail(LARGE)
    return image
