"""The page itself: a tab for each use."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from ..data.images import to_rgb
from .search_tab import CSS as SEARCH_CSS
from .search_tab import search_tab

if TYPE_CHECKING:
    from gradio import Blocks

    from ..moderation import Finding, Policy
    from ..search import ImageIndex

LABELS = "a person, an animal, food, a vehicle, a building"
TEMPLATE = "This is a photo of {}."
# One after the other, whichever tab asks: a model is one.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
IMAGE: dict[str, Any] = {"type": "pil", "sources": ["upload", "clipboard"]}
# A browser takes the first font that has a letter, and any other of the machine's after these.
FONTS = [
    "system-ui",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "sans-serif",
]
CSS = """
textarea, input, label, td, th, .caption-label {unicode-bidi: plaintext; text-align: start}
.gradio-container {max-width: 1100px !important; width: 100% !important; margin: 0 auto !important}
.gradio-container > main, .gradio-container main > .wrap {width: 100% !important}
"""
COMMA = re.compile("[,\uff0c\u3001\u060c]")  # also the Chinese, the Japanese and the Arabic one
FINDING_COLUMNS = ["category", "triggers", "by", "score", "threshold", "nearest", "then"]


def build_demo(
    model: Any,
    processor: Any,
    *,
    index: ImageIndex | None = None,
    policy: Policy | str | Path | None = None,
    images: str | Path | None = None,
    name: str = "custom CLIP",
) -> Blocks:
    """A Gradio page for a model; start it with `.launch()`, which listens on this machine alone.

    Args:
        index: adds search by words and by image.
        policy: adds moderation.
        images: folder in which the index's images lie under their ids; by default they are where they
            were when they were indexed.
        name: what the page calls the model.

    Raises:
        ImportError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError:
        raise ImportError("The page needs Gradio: pip install 'hf-customclip[demo]'") from None
    with gr.Blocks(title=f"{name}: try it", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}\nA custom CLIP: images and words in one space.")
        with gr.Tabs():
            if index is not None:
                search_tab(gr, index, None if images is None else Path(images), ONE_AT_A_TIME, IMAGE)
            _classify_tab(gr, model, processor)
            if policy is not None:
                _moderate_tab(gr, model, processor, policy)
    return page


def launch_options() -> dict[str, Any]:
    """How the page looks, for `launch`: nothing is fetched from elsewhere."""
    import gradio as gr

    return {
        "theme": gr.themes.Soft(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        "css": CSS + SEARCH_CSS,
        "footer_links": ["api"],
    }


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a user can mend is said on the page, in the error's own sentence."""
    import gradio as gr

    @functools.wraps(function)
    def wrapper(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapper


def _classify_tab(gr: Any, model: Any, processor: Any) -> None:
    from ..inference.zero_shot import ZeroShotClassifier

    def classify(image: PIL.Image.Image | None, labels: str, template: str) -> dict[str, float]:
        if image is None:
            raise ValueError("Choose an image first.")
        names = [name.strip() for name in COMMA.split(labels) if name.strip()]
        classifier = ZeroShotClassifier(model, processor, list(dict.fromkeys(names)), template)
        return {best["label"]: best["score"] for best in classifier.predict([to_rgb(image)])[0]}

    with gr.Tab("Classify", id="classify"), gr.Row():
        with gr.Column():
            image = gr.Image(label="Image", **IMAGE, height=300, elem_id="classify-image")
            labels = gr.Textbox(LABELS, label="Labels, with commas between", elem_id="classify-labels")
            template = gr.Textbox(TEMPLATE, label="Sentence, with {} for the label")
            button = gr.Button("Classify", variant="primary", elem_id="classify-go")
        with gr.Column():
            gr.Markdown("### How well each label fits")
            result = gr.Label(show_label=False, elem_id="classify-result")
    inputs = [image, labels, template]
    for event in (button.click, labels.submit, template.submit):
        event(_told(classify), inputs, result, api_name="classify", **ONE_AT_A_TIME)


def _moderate_tab(gr: Any, model: Any, processor: Any, policy: Any) -> None:
    from ..moderation.moderator import Moderator

    moderator = Moderator(model, processor, policy)

    def moderate(image: PIL.Image.Image | None, text: str) -> tuple[str, list[list[Any]]]:
        if image is None and not text.strip():
            raise ValueError("Choose an image, write a text, or both.")
        (verdict,) = moderator.check([None if image is None else to_rgb(image)], [text])
        by_need = sorted(verdict.findings, key=lambda finding: finding.threshold - finding.score)
        rows = [_row(finding) for finding in by_need]
        return f"## {verdict.action}", rows

    with gr.Tab("Moderate", id="moderate"):
        with gr.Row():
            with gr.Column():
                image = gr.Image(label="Image", **IMAGE, height=260, elem_id="moderate-image")
                text = gr.Textbox(label="Text that comes with it", lines=2, elem_id="moderate-text")
                button = gr.Button("Check", variant="primary", elem_id="moderate-go")
            with gr.Column():
                action = gr.Markdown("## —", elem_id="moderate-action")
                gr.Markdown(
                    f"Policy *{moderator.policy.name}*. Advice to people who decide: the model errs both ways, "
                    "and the policy is its owner's."
                )
        table = gr.Dataframe(
            headers=FINDING_COLUMNS, label="Why", interactive=False, wrap=True, elem_id="moderate-why"
        )
    for event in (button.click, text.submit):
        event(_told(moderate), [image, text], [action, table], api_name="moderate", **ONE_AT_A_TIME)


def _row(finding: Finding) -> list[str]:
    nearest = Path(finding.nearest).name if finding.part == "example" else finding.nearest
    score, threshold = f"{finding.score:.3f}", f"{finding.threshold:.3f}"
    triggers = "yes" if finding.triggered else "no"
    return [finding.category, triggers, finding.part, score, threshold, nearest, finding.action]
