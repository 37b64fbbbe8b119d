"""Promises pinned here:

- every odd kind of image comes out of `decode_image` + `to_rgb` as a person sees it (worked by hand);
- every image that cannot be read raises `UnreadableImageError` naming it and saying why;
- a plain RGB image is passed through untouched (same object, so nothing is spent on it).
"""

import pickle
import struct
import zlib
from io import BytesIO

import numpy as np
import PIL.Image
import pytest

from hf_customclip.data.images import UnreadableImageError, decode_image, image_name, to_rgb


def encoded(image, format, **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def flat(mode, colour, size=(4, 3)):
    return PIL.Image.new(mode, size, colour)


def rgb_of(data):
    image = to_rgb(decode_image(data))
    assert image.mode == "RGB"
    return image


def noisy_jpeg():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(PIL.Image.fromarray(pixels), "JPEG")


def test_plain_rgb_is_passed_through_as_it_is():
    image = decode_image(noisy_jpeg())
    assert to_rgb(image) is image


def test_exif_orientation_is_applied():
    upright = PIL.Image.new("RGB", (4, 2), "black")
    upright.paste("white", (0, 0, 2, 2))  # left half white
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned 90 degrees clockwise
    seen = rgb_of(encoded(upright, "PNG", exif=exif))
    assert seen.size == (2, 4)
    assert np.asarray(seen)[:2].min() == 255 and np.asarray(seen)[2:].max() == 0  # white is now on top
    assert np.asarray(to_rgb(seen)).tolist() == np.asarray(seen).tolist()  # not turned a second time


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        seen = np.asarray(rgb_of(encoded(PIL.Image.fromarray(levels), format)))
        assert seen[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([-5.0, 500.0, 1000.0], [0, 128, 255]),
    ],
)
def test_float_images_are_scaled_by_what_they_hold(levels, expected):
    data = encoded(PIL.Image.fromarray(np.array([levels], dtype=np.float32)), "TIFF")
    assert np.asarray(rgb_of(data))[0, :, 1].tolist() == expected


def test_thirty_two_bit_integers_beyond_sixteen_bits_are_scaled_by_their_maximum():
    data = encoded(PIL.Image.fromarray(np.array([[0, 500_000, 1_000_000]], dtype=np.int32)), "TIFF")
    assert np.asarray(rgb_of(data))[0, :, 2].tolist() == [0, 128, 255]


def test_alpha_is_laid_over_white():
    assert rgb_of(encoded(flat("RGBA", (255, 0, 0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    assert rgb_of(encoded(flat("RGBA", (0, 0, 0, 51)), "PNG")).getpixel((0, 0)) == (204, 204, 204)
    assert rgb_of(encoded(flat("LA", (0, 51)), "PNG")).getpixel((0, 0)) == (204, 204, 204)


def test_transparent_palette_entry_and_colour_key_are_white():
    palette = flat("P", 1)
    palette.putpalette([0, 0, 0, 0, 128, 0])
    assert rgb_of(encoded(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert rgb_of(encoded(palette, "PNG")).getpixel((0, 0)) == (0, 128, 0)
    key = (1, 2, 3)
    assert rgb_of(encoded(flat("RGB", key), "PNG", transparency=key)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_is_converted():
    red = rgb_of(encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=95)).getpixel((0, 0))
    assert red[0] > 240 and max(red[1:]) < 15


def test_one_bit_and_grey_are_converted():
    assert rgb_of(encoded(flat("1", 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    assert rgb_of(encoded(flat("L", 7), "PNG")).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation_is_taken(format):
    frames = [flat("RGB", colour, (8, 8)) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert rgb_of(data).getpixel((0, 0)) == (255, 0, 0)
    at_the_end = PIL.Image.open(BytesIO(data))
    at_the_end.seek(1)
    assert to_rgb(at_the_end).getpixel((0, 0)) == (255, 0, 0)


def test_lab_is_converted():
    white = PIL.Image.merge("LAB", [flat("L", level) for level in (255, 128, 128)])
    assert min(to_rgb(white).getpixel((0, 0))) >= 254


def test_every_kind_of_value_is_decoded(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(noisy_jpeg())
    opened = PIL.Image.open(path)
    values = [path, str(path), noisy_jpeg(), {"bytes": noisy_jpeg(), "path": "a.jpg"},
              {"bytes": None, "path": str(path)}, opened]  # fmt: skip
    for value in values:
        assert decode_image(value).size == (64, 64)


def png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"")]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>", "format"),
        (noisy_jpeg()[:200], "."),
        (noisy_jpeg()[: len(noisy_jpeg()) // 2], "truncated"),
        (encoded(flat("RGB", "red", (64, 64)), "PNG")[:60], "."),
        (png_header(20_000, 20_000), "bomb"),
        (png_header(0, 5), "."),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "."),
        (b"GIF89a", "."),
    ],
)
def test_unreadable_images_are_named_with_the_reason(data, reason, tmp_path):
    path = tmp_path / "bad image.jpg"
    path.write_bytes(data)
    for value in (str(path), {"bytes": data, "path": str(path)}):
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            decode_image(value)
        assert caught.value.name == str(path) and str(path) in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.name, again.reason) == (caught.value.name, caught.value.reason)


def test_missing_file_folder_and_nothing_at_all(tmp_path):
    with pytest.raises(UnreadableImageError, match="no such file"):
        decode_image(tmp_path / "nothing.jpg")
    with pytest.raises(UnreadableImageError, match="directory"):
        decode_image(tmp_path)
    with pytest.raises(UnreadableImageError, match="neither bytes nor a path"):
        decode_image({"bytes": None, "path": None})


def test_a_image_without_pixels():
    with pytest.raises(UnreadableImageError, match="no pixels"):
        decode_image(PIL.Image.new("RGB", (0, 5)))


def test_names():
    assert image_name({"path": "a/b.jpg", "bytes": b""}) == "a/b.jpg"
    assert image_name(b"") == "(image without a name)"
    with pytest.raises(UnreadableImageError, match="row 7"):
        decode_image(b"junk", name="row 7")
