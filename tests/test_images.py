"""Images as people send them: deep, transparent, turned, huge, or no images at all."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedtiny_lite.data import images
from fedtiny_lite.data.images import read_image


def grey(path, levels) -> np.ndarray:
    """The grey levels of an image that was saved from these, [H, W]."""
    Image.fromarray(np.asarray(levels)).save(path)
    read = read_image(path)
    assert (read[0] == read[1]).all() and (read[1] == read[2]).all()
    return read[0]


@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_16_bits_are_scaled_and_not_clipped(suffix, tmp_path):
    """65535 is white, a half of it is grey: 257 levels make one of 8 bits."""
    levels = np.array([[0, 128, 129, 257], [32896, 65278, 65406, 65535]], np.uint16)
    assert grey(tmp_path / f"a.{suffix}", levels).tolist() == [[0, 0, 1, 1], [128, 254, 254, 255]]


@given(st.integers(0, 255))
def test_8_bits_saved_as_16_come_back(tmp_path_factory, level):
    path = tmp_path_factory.getbasetemp() / "level.png"
    assert grey(path, np.full((2, 3), level * 257, np.uint16)).tolist() == [[level] * 3] * 2


def test_levels_beyond_16_bits_are_refused():
    for level in (-1, 65536):
        with pytest.raises(ValueError, match=rf"reach from {level} to {level}; save it with 8 or 16 bits"):
            images._decode(Image.fromarray(np.full((2, 2), level, np.int32)))
    with pytest.raises(ValueError, match="fractions"):
        images._decode(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_what_is_transparent_becomes_white(tmp_path):
    """A red pixel, opaque, half and not at all: 255 stays, and green goes from 0 over 127 to 255."""
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 128], [200, 0, 0, 0]]], np.uint8)
    for suffix in ("png", "webp"):
        options = {"lossless": True, "exact": True} if suffix == "webp" else {}
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **options)
        assert read_image(tmp_path / f"a.{suffix}")[:, 0].T.tolist() == [[200, 0, 0], [227, 127, 127], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white(mode, tmp_path):
    """A palette, grey levels and colours name one that is transparent, beside the pixels."""
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), (51, 51, 51))
    image = image.convert(mode)
    image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))
    assert read_image(tmp_path / "a.png")[:, 0].T.tolist() == [[255, 255, 255], [51, 51, 51]]


def test_grey_with_alpha_becomes_white(tmp_path):
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[10, 255]]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, [[0, 50], [100, 150]]), (3, [[150, 100], [50, 0]]), (6, [[100, 0], [150, 50]]), (8, [[50, 150], [0, 100]])],
)
def test_a_photo_is_turned_as_its_camera_noted(orientation, expected, tmp_path):
    """6: the camera was turned, and the left column is the top row from right to left."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    levels = np.array([[0, 50], [100, 150]], np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png")[0].tolist() == expected


def announced(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces so many pixels."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(4097, 4096), (12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)], ids=str)
def test_an_image_of_too_many_pixels_is_named_before_it_is_decoded(sides, tmp_path):
    """The second is beyond the number at which Pillow warns, the others beyond that at which it refuses."""
    (tmp_path / "bomb.png").write_bytes(announced(*sides))
    with pytest.raises(RuntimeError, match=r"bomb\.png is not a readable image: replace or delete it \(.*pixels"):
        read_image(tmp_path / "bomb.png")


def test_the_largest_image_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 12)
    for width, fits in ((4, True), (5, False)):
        Image.new("L", (width, 3)).save(tmp_path / "a.png")
        if fits:
            assert read_image(tmp_path / "a.png").shape == (3, 3, 4)
        else:
            with pytest.raises(RuntimeError, match="5x3 pixels, and at most 12 are read"):
                read_image(tmp_path / "a.png")


def test_a_text_that_unpacks_to_sixteen_megabytes_is_named(tmp_path):
    """PNG may carry compressed text; Pillow reads it with the pixels."""
    whole = io.BytesIO()
    Image.new("L", (2, 2)).save(whole, "png")
    body = b"Comment\0\0" + zlib.compress(bytes(2**24), 1)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    raw = whole.getvalue()
    (tmp_path / "a.png").write_bytes(raw[:33] + chunk + raw[33:])
    with pytest.raises(RuntimeError, match=r"a\.png is not a readable image"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_or_a_folder_with_the_name_of_an_image_is_named(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    for name in ("a.png", "b.png"):
        with pytest.raises(RuntimeError, match=rf"{name[0]}\.png is not a readable image: .*it is not a file"):
            read_image(tmp_path / name)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_image_is_named_or_read(data, tmp_path_factory):
    kind = data.draw(st.sampled_from(["png", "jpeg", "bmp", "webp", "ppm"]))
    whole = io.BytesIO()
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(4, 3) * 20).convert("RGB").save(whole, kind)
    raw = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw)))
        raw[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(raw)
    try:
        assert read_image(path).dtype == np.uint8
    except RuntimeError as error:
        assert str(path) in str(error)
