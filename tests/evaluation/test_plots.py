"""Pins: the images are written without a display and show what was measured: right hits framed, ranks as in
the metrics, curves through the recalls; captions are drawn as they are, the caller's settings left alone."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_dataset

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex  # noqa: E402

from hf_customclip import plotting  # noqa: E402
from hf_customclip.evaluation import plots  # noqa: E402
from hf_customclip.evaluation.chance import retrieval_chance  # noqa: E402
from hf_customclip.evaluation.embedded_dataset import EmbeddedDataset, embed_dataset  # noqa: E402
from hf_customclip.plotting import save_figure, style  # noqa: E402

IMAGE = np.zeros((8, 8, 3), dtype="uint8")
HISTORY = [
    {"loss": 2.0, "step": 1},
    {"loss": 1.0, "step": 2},
    {"eval_loss": 1.5, "eval_t2i_recall@1": 0.25, "step": 2},
]


@pytest.fixture(scope="module")
def dataset():
    """20 rows of 18 images: the last two show the first two again."""
    rows = tiny_dataset(20, captions=2)
    return rows.remove_columns("image_id").add_column("image_id", [*range(18), 0, 1])


@pytest.fixture(scope="module")
def embedded(model, processor, dataset):
    return embed_dataset(model, processor, dataset)


def test_every_image_is_written(embedded, dataset, tmp_path):
    paths = plots.write_retrieval_plots(tmp_path / "plots", dataset, embedded, log_history=HISTORY)
    names = ["text_to_image", "image_to_text", "similarity", "recall", "training"]
    assert paths == [tmp_path / "plots" / f"{name}.png" for name in names]
    assert sorted(tmp_path.glob("plots/*")) == sorted(paths), "no half-written file may be left"
    for path in paths:
        with Image.open(path) as image:
            assert 300 < image.width < 1400, "readable in a README"
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_a_history_without_losses_gives_no_training_image(embedded, dataset, tmp_path):
    paths = plots.write_retrieval_plots(tmp_path, dataset, embedded, log_history=[{"step": 1}])
    assert "training.png" not in [path.name for path in paths]


def test_the_same_seed_draws_the_same_image(embedded, dataset, tmp_path):
    first, second = (plots.plot_retrieval_grid(embedded, dataset, tmp_path / f"{i}.png") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_the_same_captions_are_asked_of_every_model(embedded, dataset):
    other = EmbeddedDataset(-embedded.image_embeds, *list(vars(embedded).values())[1:])
    drawn = [plots.draw_text_to_image(results, dataset) for results in (embedded, other)]
    captions = [[axes.texts[0].get_text() for axes in figure.axes if axes.texts] for figure in drawn]
    assert captions[0] == captions[1] and len(set(captions[0])) == 5
    assert frames(drawn[0]) != frames(drawn[1])


def frames(figure):
    """The frame colour of each image in a figure."""
    return [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes if axes.images]


def test_right_images_are_framed():
    hits = [plotting.Hit(IMAGE, 0.9, False), plotting.Hit(IMAGE, 0.8, True)]
    figure = plotting.plot_text_to_image(
        [plotting.QueryHits("a cat", hits, 2), plotting.QueryHits("a dog", hits[:1], 7)]
    )
    assert frames(figure) == [style.WRONG, style.RIGHT, style.WRONG]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["a cat", "right one at 2", "a dog", "right one at 7"]


def test_right_texts_are_ticked():
    hits = [plotting.Hit("a cat", 0.9, False), plotting.Hit("a dog", 0.8, True)]
    figure = plotting.plot_image_to_text([plotting.QueryHits(IMAGE, hits, 2)])
    (wrong, right) = [text for axes in figure.axes for text in axes.texts]
    assert right.get_text() == "✓ 0.80  a dog"
    assert (to_hex(right.get_color()), to_hex(wrong.get_color())) == (style.RIGHT, style.NEUTRAL)


def test_hits_and_ranks_are_those_of_the_metrics(dataset):
    """Embeddings made so that image 3 is found at rank 1 by its first caption, image 5 at rank 18."""
    images = torch.eye(18)[[*range(18), 0, 1]]
    texts = torch.eye(18)[[*range(18), 0, 1]].repeat_interleave(2, 0).clone()
    texts[10] = 1 / 17**0.5
    texts[10, 5] = 0
    ids = torch.tensor([*range(18), 0, 1])
    results = plots._Results(dataset, EmbeddedDataset(images, texts, ids, ids.repeat_interleave(2)))
    found, lost = (results.query_of_text(results.first_text(image), top_k=4) for image in (3, 5))
    assert (found.rank, [hit.right for hit in found.hits]) == (1, [True, False, False, False])
    assert (lost.rank, [hit.right for hit in lost.hits]) == (18, [False] * 4)
    assert found.item == dataset[3]["captions"][0]
    assert np.array_equal(np.asarray(found.hits[0].item), np.asarray(dataset[3]["image"]))
    # Image 0 stands in rows 0 and 18, with two captions each.
    assert [hit.right for hit in results.image_query(0, top_k=5).hits] == [True] * 4 + [False]


def test_recall_curves_pass_through_the_metrics(embedded):
    recalls, chance = plots.recall_curves(embedded)
    metrics, expected = embedded.metrics(), retrieval_chance(embedded.image_ids, embedded.text_image_ids)
    for way, name in (("i2t", "image to text"), ("t2i", "text to image")):
        for k in (1, 5, 10):
            assert recalls[name][k - 1] == pytest.approx(metrics[f"{way}_recall@{k}"])
            assert chance[name][k - 1] == pytest.approx(expected[f"{way}_recall@{k}"])
        assert recalls[name] == sorted(recalls[name])
    # Up to the last but one of 18 images: among all candidates the right one is always found.
    assert [len(values) for values in (*recalls.values(), *chance.values())] == [17] * 4


def test_training_curves_show_the_history():
    figure = plotting.plot_training_curves(HISTORY)
    lines = {line.get_label(): line.get_xydata().tolist() for axes in figure.axes for line in axes.lines}
    assert lines == {
        "training": [[1, 2.0], [2, 1.0]],
        "validation": [[2, 1.5]],
        "text to image, R@1": [[2, 0.25]],
    }
    with pytest.raises(ValueError, match="no training loss"):
        plotting.plot_training_curves(HISTORY[2:])


def test_confusion_matrix_is_coloured_by_row():
    figure = plotting.plot_confusion_matrix(torch.tensor([[1, 3], [0, 0]]), ["cat", "dog"])
    assert figure.axes[0].images[0].get_array().tolist() == [[0.25, 0.75], [0, 0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "3", "0", "0"]


def test_captions_are_drawn_as_they_are(tmp_path):
    """Dollar signs are no formula, not even an unfinished one."""
    text = r"from $5 to $\frac"
    query = plotting.QueryHits(text, [plotting.Hit(IMAGE, 0.5, True)], 1)
    other = plotting.QueryHits(IMAGE, [plotting.Hit(text, 0.5, True)], 1)
    drawn = [
        plotting.plot_text_to_image([query], title=text),
        plotting.plot_image_to_text([other]),
        plotting.plot_similarity(np.eye(2), [IMAGE] * 2, [text] * 2),
        plotting.plot_confusion_matrix(np.eye(2, dtype=int), [text, "b"]),
    ]
    for i, figure in enumerate(drawn):
        save_figure(figure, tmp_path / f"{i}.png")


def test_the_callers_settings_and_state_are_left_alone():
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    plotting.plot_recall_curve({"a": [0.1, 0.2]})
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


SCRIPTS = {
    "Chinese": "两只狗在雪地里",
    "Japanese": "よだれを垂らした顔",
    "Korean": "침 흘리는 얼굴",
    "Arabic": "كلب يجري على العشب",
    "Hindi": "लार टपकता चेहरा",
}


def test_every_script_is_drawn_without_a_warning_or_one_hint_says_what_to_install(tmp_path):
    from hf_customclip.plotting.style import Figure, save_figure, with_fonts

    figure = Figure()
    for line, text in enumerate(SCRIPTS.values()):
        with_fonts(figure.text)(0.1, 0.1 + 0.15 * line, text)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        save_figure(figure, tmp_path / "scripts.png")
    assert len(said) <= 1 and all("fonts-noto-cjk" in str(each.message) for each in said)


def test_a_letter_that_no_font_has_is_named_once(tmp_path):
    from hf_customclip.plotting.style import Figure, save_figure, with_fonts

    figure = Figure()
    with_fonts(figure.text)(0.5, 0.5, "\ue123 \ue123 x")  # private use
    with pytest.warns(UserWarning, match="No font of this machine draws \ue123: boxes") as said:
        save_figure(figure, tmp_path / "boxes.png")
    assert len(said) == 1


def test_a_font_installed_after_matplotlib_made_its_list_is_found(tmp_path, monkeypatch):
    new, other = tmp_path / "NotoSansThai-Regular.ttf", tmp_path / "Else.ttf"
    for path in (new, other):
        path.write_bytes(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf").read_bytes())
    broken = tmp_path / "NotoSansTamil-Regular.ttf"
    broken.write_bytes(b"no font")
    manager = style.font_manager.fontManager
    monkeypatch.setattr(style.font_manager, "findSystemFonts", lambda: [str(new), str(other), str(broken)])
    monkeypatch.setattr(manager, "ttflist", list(manager.ttflist))
    style.add_new_fonts.cache_clear()
    style.add_new_fonts()
    added = {Path(entry.fname).name for entry in manager.ttflist if Path(entry.fname).parent == tmp_path}
    assert added == {new.name}


def test_queries_are_representative():
    ranks = [1, 1, 2, 3, 8, 9, 1, 1, 5, 6, 7, 8]
    assert [ranks[text] for text in plots.representative_texts(ranks, None, 3, seed=0)] == [1, 5, 8]
    languages = ["en"] * 6 + ["zh"] * 6
    chosen = plots.representative_texts(ranks, languages, 2, seed=0)
    assert {languages[text] for text in chosen} == {"en", "zh"}
    # The quarter and the three quarters of each language's six: ranks 1 and 8, or 1 and 7.
    assert [ranks[text] for text in chosen] in ([1, 7], [1, 8])
    assert chosen == plots.representative_texts(ranks, languages, 2, seed=0)
