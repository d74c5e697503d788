"""Decoding one image, and bringing it to the channels and depth of its set."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from pictures import encoded, noise
from PIL import Image, ImageOps

from anyjepa.core.errors import BadSample
from anyjepa.domains.image_files import conform, decode, layout


class TestDecode:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
    def test_lossless_formats_give_back_the_pixels(self, kind):
        image = noise(5, 7, 3)
        assert np.array_equal(
            decode(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})), "a"), image
        )

    def test_jpeg_gives_what_pillow_gives(self):
        content = encoded(noise(16, 24, 3), "JPEG")
        assert np.array_equal(decode(content, "a"), np.asarray(Image.open(io.BytesIO(content))))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_png_of_16_bit_keeps_all_16_bits(self, channels):
        image = noise(6, 5, channels, dtype=np.uint16)
        content = imagecodecs.png_encode(image if channels > 1 else image[:, :, 0])
        result = decode(content, "a")
        assert result.dtype == np.uint16
        assert np.array_equal(result, image)

    @pytest.mark.parametrize("channels", [1, 3, 4, 5, 12])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_tiff_of_any_depth_and_number_of_channels(self, channels, dtype):
        image = noise(40, 30, channels, dtype=dtype)
        target = io.BytesIO()
        tifffile.imwrite(
            target,
            image if channels > 1 else image[:, :, 0],
            photometric="rgb" if channels == 3 else "minisblack",
        )
        result = decode(target.getvalue(), "a")
        assert result.dtype == dtype
        assert np.array_equal(result, image)

    @pytest.mark.parametrize(
        "options", [{"planarconfig": "separate"}, {"imagej": True, "metadata": {"axes": "CYX"}}]
    )
    def test_tiff_with_planes_apart(self, options):
        image = noise(3, 20, 30, dtype=np.uint16)
        target = io.BytesIO()
        kind = {"photometric": "rgb"} if "planarconfig" in options else {"photometric": "minisblack"}
        tifffile.imwrite(target, image, **kind, **options)
        assert np.array_equal(decode(target.getvalue(), "a"), image.transpose(1, 2, 0))

    def test_first_frame_of_an_animation(self):
        frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
        target = io.BytesIO()
        frames[0].save(target, "GIF", save_all=True, append_images=frames[1:])
        assert (decode(target.getvalue(), "a") == 10).all()

    def test_one_bit_palette_and_ink(self):
        bits = noise(5, 9, dtype=np.uint8) > 127
        assert np.array_equal(decode(encoded(Image.fromarray(bits)), "a")[:, :, 0], bits * 255)
        colours = noise(6, 6, 3) // 128 * 255
        palette = Image.fromarray(colours).quantize(8)
        assert np.array_equal(decode(encoded(palette), "a"), np.asarray(palette.convert("RGB")))
        ink = decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), "a")
        assert ink.shape == (4, 4, 3)
        assert np.allclose(ink, [255, 0, 0], atol=4)
        assert np.allclose(
            decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), "a"), [255, 0, 0], atol=4
        )

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, orientation):
        exif = Image.Exif()
        exif[274] = orientation
        content = encoded(noise(4, 6, 3), "PNG", exif=exif)
        assert np.array_equal(
            decode(content, "a"), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
        )

    def test_npy_with_channels_first_and_odd_types(self):
        def saved(values):
            target = io.BytesIO()
            np.save(target, values)
            return target.getvalue()

        image = noise(3, 9, 11, dtype=np.float32)
        assert np.array_equal(decode(saved(image.astype(np.float64)), "a"), image.transpose(1, 2, 0))
        assert decode(saved(image.astype(np.float64)), "a").dtype == np.float32
        big_endian = noise(4, 4, dtype=np.uint16).astype(">u2")
        assert np.array_equal(decode(saved(big_endian), "a")[:, :, 0], big_endian)
        with pytest.raises(BadSample, match="NaN"):
            decode(saved(np.array([[np.nan, 1.0]])), "a")
        with pytest.raises(BadSample, match=r"pickle|Object"):
            decode(saved(np.array([{"a": 1}], dtype=object)), "a")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
    def test_cut_off_files_are_named_and_never_filled_up(self, kind):
        content = encoded(noise(64, 64, 3), kind)
        for share in (0.02, 0.3, 0.6, 0.95):
            with pytest.raises(BadSample) as caught:
                decode(content[: int(len(content) * share)], "x/y.img")
            assert caught.value.identity == "x/y.img"
            assert caught.value.reason

    def test_cut_off_png_of_16_bit(self):
        content = imagecodecs.png_encode(noise(32, 32, 3, dtype=np.uint16))
        for share in (0.1, 0.5, 0.9, 0.999):
            with pytest.raises(BadSample, match="truncated"):
                decode(content[: int(len(content) * share)], "a")

    @pytest.mark.parametrize(
        ("content", "reason"), [(b"", "empty"), (b"I am no picture\n" * 9, "not an image")]
    )
    def test_what_is_no_image(self, content, reason):
        with pytest.raises(BadSample, match=reason):
            decode(content, "a")

    def test_decompression_bomb(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(BadSample, match="bomb"):
            decode(encoded(noise(50, 50, 3)), "a")

    def test_damaged_bytes_never_escape_as_another_error(self):
        generator = np.random.default_rng(0)
        target = io.BytesIO()
        tifffile.imwrite(target, noise(9, 9, 3), photometric="rgb")
        for content in (
            target.getvalue(),
            encoded(noise(9, 9, 3)),
            imagecodecs.png_encode(noise(9, 9, 3, dtype=np.uint16)),
        ):
            for _ in range(60):
                broken = np.frombuffer(content, np.uint8).copy()
                broken[generator.integers(8, min(len(broken), 200), 4)] = generator.integers(0, 256, 4)
                try:
                    assert decode(broken.tobytes(), "a").ndim == 3
                except BadSample:
                    continue  # any other error fails the test


@pytest.mark.parametrize(
    ("shape", "where"),
    [
        ((32, 32, 3), "last"),
        ((3, 32, 32), "first"),
        ((8, 8, 12), "last"),
        ((12, 16, 16), "first"),
        ((5, 20, 30), "first"),
        ((12, 200, 100), "first"),
        ((8, 8, 8), "last"),
        ((1, 1, 1), "last"),
    ],
)
def test_layout(shape, where):
    assert layout(shape) == where


def test_layout_without_channels():
    with pytest.raises(ValueError, match="no axis"):
        layout((100, 200, 300))


def test_conform():
    grey, colour = noise(3, 4, 1), noise(3, 4, 3)
    assert np.array_equal(conform(grey, 3, np.dtype(np.uint8), "a"), grey.repeat(3, axis=2))
    assert np.array_equal(conform(grey.repeat(3, axis=2), 1, np.dtype(np.uint8), "a"), grey)
    assert np.array_equal(conform(np.concatenate([colour, grey], 2), 3, np.dtype(np.uint8), "a"), colour)
    deep = conform(colour, 3, np.dtype(np.uint16), "a")
    assert deep.max() <= 65535
    assert np.array_equal(deep, colour.astype(int) * 257)
    assert np.array_equal(conform(deep, 3, np.dtype(np.uint8), "a"), colour)
    assert conform(np.full((1, 1, 1), 65535, np.uint16), 1, np.dtype(np.float32), "a") == 1
    with pytest.raises(BadSample, match="5 channels where most of the set has 3"):
        conform(noise(3, 4, 5), 3, np.dtype(np.uint8), "a")
    with pytest.raises(BadSample, match="outside"):
        conform(np.full((1, 1, 1), 7, np.float32), 1, np.dtype(np.uint8), "a")
