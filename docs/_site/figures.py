"""Draw the figures of the pages.

python docs/_site/figures.py        writes docs/flow.svg, model.svg, rooms.svg, batch.svg and hubness.svg
"""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
GREY, PALE, GREEN, RED, BLUE = "#7a8794", "#c8d0d9", "#2a9d6f", "#d1495b", "#3a6ea5"


BOX_WIDTH, BOX_HEIGHT, COLUMN, ROW = 136, 50, 158, 66
Boxes = dict[str, tuple[float, float, str]]  # name: column, row, lines of text with | between them


def main() -> None:
    for draw in (flow, model, rooms, batch, hubness):
        (DOCS / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")


def flow() -> str:
    """The way of the data."""
    boxes = {
        "source": (0, 0.5, "folder, CSV,|Parquet, Hub id, …"),
        "dataset": (1, 0.5, "dataset: image,|captions, image_id"),
        "cache": (2, 0.5, "cached features|(towers run once)"),
        "batch": (3, 0.5, "batches,|no image twice"),
        "heads": (4, 0.5, "projection heads,|contrastive loss"),
        "numbers": (5, 0, "recall@1/5/10|beside chance"),
        "folder": (5, 1, "model folder"),
        "use": (6, 1, "AutoModel, search,|moderation, Hub"),
    }
    arrows = "source>dataset dataset>cache cache>batch batch>heads heads>numbers heads>folder folder>use"
    return diagram(boxes, arrows, "From a source to a dataset, cached features, batches, heads; from these to recalls "
                   "and to a model folder, which transformers, search, moderation and the Hub use.")  # fmt: skip


def model() -> str:
    """The two towers with their heads."""
    boxes = {
        "pixels": (0, 0, "pixels"), "vision": (1, 0, "vision tower|(frozen)"), "f1": (2, 0, "image features"),
        "h1": (3, 0, "projection head|(trained)"), "e1": (4, 0, "image embedding"),
        "tokens": (0, 1, "tokens"), "text": (1, 1, "text tower|(frozen)"), "f2": (2, 1, "text features"),
        "h2": (3, 1, "projection head|(trained)"), "e2": (4, 1, "text embedding"),
        "cosine": (5, 0.5, "cosine times|exp(logit_scale)"),
    }  # fmt: skip
    arrows = "pixels>vision vision>f1 f1>h1 h1>e1 e1>cosine tokens>text text>f2 f2>h2 h2>e2 e2>cosine"
    return diagram(boxes, arrows, "Pixels through the frozen vision tower and its trained projection head to the image "
                   "embedding; tokens likewise to the text embedding; both to a cosine.")  # fmt: skip


def rooms() -> str:
    """Folders of the package, each above what it imports."""
    boxes = {
        "modeling": (0, 0.5, "modeling"), "data": (1, 0.5, "data"), "inference": (2, 0.5, "inference"),
        "features": (3, 0.5, "features"), "evaluation": (4, 0.5, "evaluation"),
        "hub": (5, 0, "hub"), "training": (6, 0, "training"),
        "search": (5, 1, "search|moderation, export"), "demo": (6, 1, "demo|serve"), "cli": (7, 0.5, "cli"),
    }  # fmt: skip
    arrows = (
        "modeling>data data>inference inference>features features>evaluation evaluation>hub hub>training "
    )
    arrows += "evaluation>search search>demo training>cli demo>cli"
    return diagram(boxes, arrows, "Rooms from the lowest to the highest: modeling, data, inference, features, "
                   "evaluation; then hub, training beside search, moderation, export, demo, serve; cli.")  # fmt: skip


def diagram(boxes: Boxes, arrows: str, label: str) -> str:
    """Boxes, and arrows from the right side of one to the left side of another."""
    parts = [
        f'<marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{GREY}"/></marker>'
    ]
    for arrow in arrows.split():
        (x1, y1, _), (x2, y2, _) = (boxes[name] for name in arrow.split(">"))
        parts.append(
            f'<line x1="{4 + x1 * COLUMN + BOX_WIDTH:g}" y1="{4 + y1 * ROW + BOX_HEIGHT / 2:g}" '
            f'x2="{4 + x2 * COLUMN:g}" y2="{4 + y2 * ROW + BOX_HEIGHT / 2:g}" stroke="{GREY}" '
            'stroke-width="1.5" marker-end="url(#tip)"/>'
        )
    for column, row, words in boxes.values():
        x, y, lines = 4 + column * COLUMN, 4 + row * ROW, words.split("|")
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{BLUE}"/>'
        )
        for number, line in enumerate(lines):
            middle = y + BOX_HEIGHT / 2 + 5 + 17 * (number - (len(lines) - 1) / 2)
            parts.append(text(x + BOX_WIDTH / 2, middle, line, colour="#fff"))
    width = 8 + BOX_WIDTH + COLUMN * max(column for column, _, _ in boxes.values())
    height = 8 + BOX_HEIGHT + ROW * max(row for _, row, _ in boxes.values())
    return svg(width, height, parts, label)


def batch() -> str:
    """Four images against eight captions, of which B2 and C1 are equal."""
    captions = [f"{image}{number}" for image in "ABCD" for number in (1, 2)]
    parts = [text(117 + 38 * column, 42, name) for column, name in enumerate(captions)]
    for row, image in enumerate("ABCD"):
        parts.append(text(82, 74 + 38 * row, f"image {image}", anchor="end"))
        for column, name in enumerate(captions):
            equal = (image, name) in (("B", "C1"), ("C", "B2"))
            mark = "✓" if name[0] == image else "=" if equal else ""
            x, y = 100 + 38 * column, 52 + 38 * row
            parts.append(square(x + 17, y + 17, 34, GREEN if mark else PALE))
            if mark:
                parts.append(text(x + 17, y + 22, mark, 14, "#fff"))
    legend = "✓ its own captions · = the same caption on another image, never a negative · grey: negatives"
    parts.append(text(100, 232, legend, 12, anchor="start"))
    return svg(640, 260, parts, "Four images against eight captions: each image has its own two captions as right "
               "answers; an equal caption of another image is none of its negatives, all others are.")  # fmt: skip


def hubness() -> str:
    """Five text queries, the images that are theirs, and one that is near to all, without and with its bias."""
    queries = [(60, 70), (60, 150), (150, 210), (240, 60), (250, 160)]
    images = [(30, 105), (95, 190), (185, 235), (275, 95), (280, 195)]
    hub = (150, 130)
    parts = []
    for shift, title in ((0, "cosine"), (310, "cosine minus bias")):
        parts.append(text(hub[0] + shift, 24, title, 14))
        for query, image in zip(queries, images, strict=True):
            end = image if shift else hub
            parts.append(
                f'<line x1="{query[0] + shift}" y1="{query[1]}" x2="{end[0] + shift}" y2="{end[1]}" '
                f'stroke="{GREEN if shift else RED}" stroke-width="2"/>'
            )
        parts += [square(x + shift, y, 18, GREEN) for x, y in images]
        parts.append(square(hub[0] + shift, hub[1], 22, RED, 0.35 if shift else 1))
        parts += [f'<circle cx="{x + shift}" cy="{y}" r="7" fill="{BLUE}"/>' for x, y in queries]
    parts.append(
        text(310, 256, "blue: text queries · green: their images · red: a hub, near to everything", 12)
    )
    return svg(620, 260, parts, "Left: without correction one image, the hub, is the nearest of five text queries. "
               "Right: with its bias subtracted each query finds its own image.")  # fmt: skip


def svg(width: float, height: float, parts: list[str], label: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif"'
    )
    return "\n".join([f'{head} role="img" aria-label="{label}">', *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, size: int = 13, colour: str = GREY, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{words}</text>'
    )


def square(x: int, y: int, size: int, colour: str, opacity: float = 1) -> str:
    """Around its middle."""
    corner = f'x="{x - size // 2}" y="{y - size // 2}" width="{size}" height="{size}" rx="3"'
    return f'<rect {corner} fill="{colour}" opacity="{opacity}"/>'


if __name__ == "__main__":
    main()
