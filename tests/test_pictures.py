"""A stranger's picture file: an upright RGB picture, or one clear line; never a bomb that goes off."""

from __future__ import annotations

import io
import os
import random
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.mutate import mutate_bytes
from tests.picture_files import animation, encoded, gradient, grey16, huge_png, samples
from vlm.errors import UserError
from vlm.pictures import open_picture

SAMPLES = samples()


def refused(source, message: str, **options) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_picture(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_becomes_rgb_from_bytes_path_and_stream(tmp_path, name: str):
    picture = open_picture(SAMPLES[name])
    assert picture.mode == "RGB"
    (tmp_path / "named.txt").write_bytes(SAMPLES[name])
    for source in (tmp_path / "named.txt", str(tmp_path / "named.txt"), io.BytesIO(SAMPLES[name])):
        assert open_picture(source).tobytes() == picture.tobytes()


@pytest.mark.parametrize("name", ["rgb.png", "plain.bmp"])
def test_plain_pixels_stay_as_they_are(name: str):
    assert open_picture(SAMPLES[name]).tobytes() == gradient().tobytes()


@pytest.mark.parametrize("name", ["plain.jpg", "cmyk.jpg", "progressive.jpg", "palette.png", "still.gif", "lossy.webp"])
def test_other_kinds_look_the_same(name: str):
    found, true = np.asarray(open_picture(SAMPLES[name]), float), np.asarray(gradient(), float)
    assert np.abs(found - true).mean() < 20


def test_sixteen_bits_keep_their_upper_eight():
    assert np.asarray(open_picture(SAMPLES["grey16.png"]))[0, :, 0].tolist() == [0, 0, 1, 255]
    keyed = grey16([0, 256, 65535], (b"tRNS", (256).to_bytes(2, "big")))
    assert np.asarray(open_picture(keyed, background=(9, 8, 7)))[0].tolist() == [[0] * 3, [9, 8, 7], [255] * 3]


def test_transparency_shows_the_background():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    for kind in ("PNG", "WEBP"):
        file = encoded(clear, kind, lossless=True)
        assert np.asarray(open_picture(file))[0].tolist() == [[255] * 3, [255, 0, 0]]
        assert np.asarray(open_picture(file, background=(1, 2, 3)))[0].tolist() == [[1, 2, 3], [255, 0, 0]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([250, 0, 0, 0, 250, 0])
    palette.putpixel((1, 0), 1)
    file = encoded(palette, "GIF", transparency=0)
    assert np.asarray(open_picture(file, background=(1, 2, 3)))[0].tolist() == [[1, 2, 3], [0, 250, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int):
    upright = gradient(16, 12)
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.rotate(180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert open_picture(encoded(stored, "PNG", exif=exif)).tobytes() == upright.tobytes()


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\xff" * 40],
)
def test_a_damaged_exif_block_turns_nothing(exif: bytes):
    assert open_picture(encoded(gradient(), "JPEG", exif=exif)).size == (8, 6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind: str):
    refused(animation(kind), "is animated, expected a still picture")


def test_a_camera_s_second_picture_is_not_looked_at():
    assert open_picture(encoded(gradient(), "MPO", save_all=True, append_images=[gradient()])).size == (8, 6)


def test_a_bomb_is_refused_by_its_header():
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(huge_png(), "pixels, expected at most 50,000,000; scale it down")
        refused(huge_png(10_000, 9_000), "10,000 x 9,000 pixels, expected at most 50,000,000")
        refused(huge_png(2**31 - 1, 2**31 - 1), "pixels|damaged")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    refused(SAMPLES["rgb.png"], "8 x 6 pixels, expected at most 47", max_pixels=47)
    assert open_picture(SAMPLES["rgb.png"], max_pixels=48).size == (8, 6)


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_are_refused(name: str):
    file = SAMPLES[name]
    refused(file[: len(file) // 2], "damaged picture|no picture|no pixels")
    refused(file[:12], "damaged picture|no picture")


def test_what_is_no_picture(tmp_path):
    (tmp_path / "words.png").write_text("These are words, not a picture.")
    refused(tmp_path / "words.png", r"words.png is no picture that can be read, expected PNG, JPEG, GIF, WEBP, BMP")
    refused(b"", "the picture is empty")
    refused(b"GIF89a", "damaged|no picture")
    refused(encoded(gradient(), "TIFF"), "no picture that can be read")
    refused(tmp_path / "none.png", r"cannot read .*none.png \(No such file")
    refused(tmp_path, "is no file")
    refused("a\0b.png", "cannot read")
    refused("two\nlines.png", r"cannot read 'two\\nlines.png'")
    refused(SAMPLES["rgb.png"], "more than 10 bytes", max_bytes=10)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX device and pipe")
def test_devices_and_pipes_are_not_opened(tmp_path):
    refused(Path("/dev/zero"), "is no file")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "is no file")


@settings(max_examples=400)
@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 2**32))
def test_mutated_files_are_a_picture_or_one_line(name: str, seed: int):
    file = mutate_bytes(random.Random(seed), SAMPLES[name], list(SAMPLES.values()))
    try:
        picture = open_picture(file, max_pixels=1_000_000)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert picture.mode == "RGB" and 0 < picture.width * picture.height <= 1_000_000
