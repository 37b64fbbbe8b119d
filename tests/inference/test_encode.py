"""The one encoder.

Pinned: paths, PIL images, bytes, undecoded rows and arrays give the embedding of the same image; one item gives
a vector, many a matrix; batches, workers and the model's methods change nothing; equal texts are embedded once and
equal to the bit; unreadable images are named, or skipped as NaN with a warning; not normalised is the model's own
`pooler_output`; the train mode is left as it was; CLIP of transformers is encoded too; quiet when piped.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tr
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower

from hf_customclip import CustomClipModel
from hf_customclip.data.images import UnreadableImageError
from hf_customclip.data.pairs import ImageColumn
from hf_customclip.inference import encode_images, encode_texts, iter_encoded_images

TEXTS = ["a large red square on white", "this is a photo", "a large red square on white", "pink cross"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, tiny_dataset(5)["image"], strict=True):
        image.save(path)
    return paths


def one_by_one(model: Any, images: list[Any]) -> torch.Tensor:
    """Through the model's own `get_image_features`."""
    pixels = [tiny_processor()(images=image, return_tensors="pt")["pixel_values"] for image in images]
    with torch.no_grad():
        return torch.cat([model.eval().get_image_features(one).pooler_output for one in pixels])


def test_every_form_of_an_image(files: list[Path]) -> None:
    model, processor, images = tiny_model(), tiny_processor(), tiny_dataset(5)["image"][:]
    expected = torch.nn.functional.normalize(one_by_one(model, images), dim=-1)
    forms: list[Any] = [
        images,
        files,
        [str(file) for file in files],
        [file.read_bytes() for file in files],
        [{"bytes": file.read_bytes(), "path": None} for file in files],
        [np.asarray(image) for image in images],
        np.stack([np.asarray(image) for image in images]),
        ImageColumn(tiny_dataset(5)),
    ]
    for given in forms:
        torch.testing.assert_close(encode_images(model, processor, given), expected, rtol=1e-5, atol=1e-5)
    for one in (images[0], files[0], str(files[0]), np.asarray(images[0])):
        torch.testing.assert_close(encode_images(model, processor, one), expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 2), (64, 0)])
def test_batches_and_workers_change_nothing(files: list[Path], batch_size: int, num_workers: int) -> None:
    model = tiny_model()
    found = encode_images(
        model, tiny_processor(), files, batch_size=batch_size, num_workers=num_workers, normalize=False
    )
    expected = one_by_one(model, tiny_dataset(5)["image"][:])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32 and not found.requires_grad


def test_texts() -> None:
    model, processor = tiny_model().train(), tiny_processor()
    calls: list[int] = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = encode_texts(model, processor, TEXTS, batch_size=2)
    assert sum(calls) == 3 and model.training
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    for text, embed in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(encode_texts(model, processor, text), embed, rtol=1e-5, atol=1e-5)


def test_unreadable_images(files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, processor = tiny_model(), tiny_processor()
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:60])
    given = [files[0], tmp_path / "cut.png", files[1]]
    with pytest.raises(UnreadableImageError, match=r"cut\.png"):
        encode_images(model, processor, given)
    with caplog.at_level(logging.WARNING, "hf_customclip.inference.encode"):
        found = encode_images(model, processor, given, unreadable="skip", batch_size=1)
    assert "1 image(s)" in caplog.text and "cut.png" in caplog.text
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], encode_images(model, processor, files[:2]))
    with pytest.raises(ValueError, match="no image"):
        encode_images(model, processor, [tmp_path / "cut.png"], unreadable="skip")


def test_batch_by_batch(files: list[Path], tmp_path: Path) -> None:
    given = [*files, tmp_path / "missing.png"]
    batches = list(
        iter_encoded_images(tiny_model(), tiny_processor(), given, numbers=[4, 5, 1], batch_size=2)
    )
    assert [batch.numbers for batch in batches] == [[4], [1]]
    assert [list(batch.unreadable) for batch in batches] == [[5], []]


def test_methods_of_the_model(saved_model: str, files: list[Path]) -> None:
    model = CustomClipModel.from_pretrained(saved_model)
    images = model.encode_image(files, batch_size=2)
    assert isinstance(images, np.ndarray) and images.shape == (5, 16)
    np.testing.assert_allclose(images, encode_images(model, tiny_processor(), files), atol=1e-5)
    text = model.encode_text("pink cross", convert_to="tensor")
    assert torch.equal(text, encode_texts(model, tiny_processor(), "pink cross"))
    with pytest.raises(ValueError, match="processor="):
        tiny_model().encode_text("pink cross")
    assert tiny_model().encode_text(["pink cross"], tiny_processor()).shape == (1, 16)


def test_clip_of_transformers(tmp_path: Path, files: list[Path]) -> None:
    tiny_text_tower("clip", tmp_path)
    model, processor = tr.CLIPModel.from_pretrained(tmp_path), tr.CLIPProcessor.from_pretrained(tmp_path)
    inputs = processor(text=TEXTS, images=[tiny_dataset(5)["image"][0]], padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    torch.testing.assert_close(
        encode_texts(model, processor, TEXTS), outputs.text_embeds, rtol=1e-4, atol=1e-5
    )
    image = encode_images(model, processor, files[0])
    torch.testing.assert_close(image, outputs.image_embeds[0], rtol=1e-4, atol=1e-5)


def test_progress_is_quiet_when_piped(files: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    encode_images(tiny_model(), tiny_processor(), files, batch_size=1)
    assert capfd.readouterr() == ("", "")
