"""Cutting, measuring and showing images."""

import inspect
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import noise
from PIL import Image

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, domains
from anyjepa.domains.image_crops import crop_boxes, resize_boxes
from anyjepa.domains.images import random_resized_crop, resize

images = domains()["image"]
DTYPES = {"uint8": torch.uint8, "uint16": torch.int32, "float32": torch.float32}


sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def ranges(draw, low: float, high: float) -> tuple[float, float]:
    first, second = draw(st.floats(low, high)), draw(st.floats(low, high))
    return min(first, second), max(first, second)


class TestBoxes:
    @given(sides, sides, seeds, ranges(0.01, 1), ranges(0.2, 5))
    def test_lie_inside_the_image_and_in_the_ranges(self, height, width, seed, area, aspect):
        uniforms = np.random.default_rng(seed).random((50, 5))
        top, left, box_height, box_width = crop_boxes(
            np.full(50, height), np.full(50, width), uniforms, area, aspect
        ).T
        assert (top >= 0).all() and (left >= 0).all() and (box_height > 0).all() and (box_width > 0).all()
        assert (top + box_height <= height + 1e-9).all() and (left + box_width <= width + 1e-9).all()
        assert (box_height * box_width <= area[1] * height * width + 1e-9).all()
        whole = (box_height < height) & (box_width < width)
        ratio = (box_width / box_height)[whole]
        assert (ratio >= aspect[0] - 1e-9).all() and (ratio <= aspect[1] + 1e-9).all()
        assert ((box_height * box_width)[whole] >= area[0] * height * width - 1e-9).all()

    def test_area_is_uniform_and_the_logarithm_of_the_aspect_too(self):
        uniforms = np.random.default_rng(0).random((20000, 4))
        size = np.full(20000, 100.0)
        top, _, height, width = crop_boxes(size, size, uniforms, (0.1, 0.5), (0.75, 4 / 3)).T
        for values, low, high in (
            (height * width / 1e4, 0.1, 0.5),
            (np.log(width / height), np.log(0.75), np.log(4 / 3)),
            (top / (100 - height), 0, 1),
        ):
            deciles = np.quantile(values, np.linspace(0.1, 0.9, 9))
            assert np.allclose(deciles, np.linspace(low, high, 11)[1:-1], atol=0.015 * (high - low))

    def test_a_side_that_does_not_fit_is_shortened(self):
        box = crop_boxes(np.array([10]), np.array([40]), np.full((1, 4), 0.5), (1, 1), (1, 1))
        assert np.allclose(box, [[0, 10, 10, 20]])


class TestCrops:
    @given(sides, sides, st.integers(1, 5), st.sampled_from(list(DTYPES)), seeds, st.booleans())
    @settings(max_examples=60)
    def test_a_constant_stays_constant_and_the_dtype_is_kept(
        self, height, width, channels, dtype, seed, listed
    ):
        value = noise(1, 1, 1, channels, dtype=dtype, seed=seed)
        stack = np.broadcast_to(value, (3, height, width, channels)).copy()
        uniforms = np.random.default_rng(seed).random((3, 4))
        result = random_resized_crop(list(stack) if listed else stack, uniforms, (7, 5), (0.2, 1), (0.5, 2))
        assert result.shape == (3, channels, 7, 5)
        assert result.dtype == DTYPES[dtype]
        expected = torch.from_numpy(value.astype(np.float32)).reshape(1, channels, 1, 1).expand_as(result)
        assert torch.allclose(result.float(), expected, rtol=1e-6, atol=0)

    @given(sides, st.sampled_from(list(DTYPES)), seeds)
    def test_the_whole_image_at_its_own_size_is_the_image(self, side, dtype, seed):
        stack = noise(2, side, side, 3, dtype=dtype, seed=seed)
        uniforms = np.random.default_rng(seed).random((2, 4))
        result = random_resized_crop(stack, uniforms, (side, side), (1, 1), (1, 1))
        expected = stack.transpose(0, 3, 1, 2)
        assert np.allclose(result.numpy(), expected, rtol=1e-6, atol=1e-6 if dtype == "float32" else 0)

    @given(seeds, st.integers(0, 5), st.booleans())
    def test_a_crop_depends_on_its_own_numbers_alone(self, seed, row, mixed):
        generator = np.random.default_rng(seed)
        stack = [noise(12, 9 + mixed * index, 3, seed=seed + index) for index in range(6)]
        uniforms = generator.random((6, 4))
        arguments = ((8, 8), (0.3, 1), (0.75, 4 / 3))
        together = random_resized_crop(stack, uniforms, *arguments)
        alone = random_resized_crop([stack[row]], uniforms[row : row + 1], *arguments)
        assert torch.equal(together[row], alone[0])
        others = np.where(np.arange(6)[:, None] == row, uniforms, generator.random((6, 4)))
        assert torch.equal(random_resized_crop(stack, others, *arguments)[row], together[row])
        order = generator.permutation(6)
        shuffled = random_resized_crop([stack[index] for index in order], uniforms[order], *arguments)
        assert torch.equal(shuffled, together[torch.from_numpy(order)])

    @pytest.mark.parametrize("shape", [(32, 32), (17, 45), (150, 200)])
    @pytest.mark.parametrize("size", [(32, 32), (8, 24), (64, 50)])
    def test_agrees_with_pillow(self, shape, size):
        smooth = np.asarray(Image.fromarray(noise(9, 9, 3)).resize(shape[::-1], Image.Resampling.BICUBIC))
        uniforms = np.random.default_rng(1).random((12, 4))
        for picture in (noise(*shape, 3), smooth):
            boxes = crop_boxes(np.full(12, shape[0]), np.full(12, shape[1]), uniforms, (0.1, 1), (0.5, 2))
            stack = np.stack([picture] * 12)
            for samples in (stack, list(stack)):
                ours = resize_boxes(samples, boxes, size).permute(0, 2, 3, 1).numpy().astype(int)
                for result, (top, left, height, width) in zip(ours, boxes, strict=True):
                    box = (left, top, min(left + width, shape[1]), min(top + height, shape[0]))
                    theirs = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
                    difference = np.abs(result - np.asarray(theirs).astype(int))
                    assert difference.max() <= 1

    @pytest.mark.parametrize("size", [(10, 31), (40, 60), (23, 23)])
    def test_agrees_with_torch_on_floats(self, size):
        stack = noise(3, 40, 31, 5, dtype="float32")
        boxes = np.tile([0.0, 0, 40, 31], (3, 1))
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(stack).permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True
        )
        assert torch.allclose(resize_boxes(stack, boxes, size), theirs, atol=1e-5)

    def test_one_pixel_images_and_16_bits(self):
        result = random_resized_crop(
            [np.full((1, 1, 1), 65535, np.uint16)], np.zeros((1, 4)), (4, 4), (0.1, 1), (1, 1)
        )
        assert (result == 65535).all()

    def test_large_images_of_one_shape_agree_with_their_list(self):
        stack = noise(3, 120, 90, 4)
        uniforms = np.random.default_rng(0).random((3, 4))
        arguments = ((32, 32), (0.2, 1), (0.75, 1.5))
        assert torch.equal(
            random_resized_crop(stack, uniforms, *arguments),
            random_resized_crop(list(stack), uniforms, *arguments),
        )

    @pytest.mark.parametrize("channels", [1, 3])
    def test_large_images_agree_whichever_way_they_are_filtered(self, channels):
        stack = noise(4, 120, 190, 5)
        uniforms = np.random.default_rng(0).random((4, 4))
        arguments = (uniforms, (40, 32), (0.1, 1), (0.5, 1.5))
        part = random_resized_crop(list(stack[..., :channels]), *arguments)
        whole = random_resized_crop(list(stack), *arguments)[:, :channels]
        assert (part.int() - whole.int()).abs().max() <= 1

    def test_256_crops_take_about_as_long_as_with_pillow(self):
        stack, uniforms = noise(256, 32, 32, 3), np.random.default_rng(0).random((256, 4))
        boxes = crop_boxes(np.full(256, 32), np.full(256, 32), uniforms, (0.3, 1), (0.75, 4 / 3))

        def ours() -> None:
            random_resized_crop(stack, uniforms, (32, 32), (0.3, 1), (0.75, 4 / 3))

        def theirs() -> None:
            for image, (top, left, height, width) in zip(stack, boxes, strict=True):
                box = (left, top, left + width, top + height)
                np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, box=box))

        def fastest(function) -> float:
            times = []
            for _ in range(7):
                start = time.perf_counter()
                function()
                times.append(time.perf_counter() - start)
            return min(times)

        assert fastest(ours) < 3 * fastest(theirs)  # measured: 0.6 to 1.1 times


class TestResize:
    def test_keeps_the_aspect_and_crops_the_centre(self):
        picture = np.zeros((20, 60, 1), np.uint8)
        picture[:, 20:40] = 200
        assert (resize([picture], 20) == 200).all()
        assert (resize([picture], 10) > 150).all()
        wide = resize([picture], (10, 30))
        assert wide.shape == (1, 1, 10, 30)
        assert (wide[..., 12:18] == 200).all() and (wide[..., :8] == 0).all()

    def test_agrees_with_pillow(self):
        picture = noise(48, 100, 3)
        theirs = Image.fromarray(picture).resize((24, 24), Image.Resampling.BILINEAR, box=(26, 0, 74, 48))
        ours = resize([picture, picture], 24)[1].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1

    def test_mixed_sizes_come_out_alike(self):
        assert resize([noise(9, 30, 3), noise(50, 20, 3), noise(8, 8, 3)], 16).shape == (3, 3, 16, 16)

    def test_nothing_to_resize(self):
        with pytest.raises(ValueError, match="no images"):
            resize([], 8)


class Three:
    """Three images of different heights, of which only some can be read."""

    source, description, labels, classes, problems, groups = "three", "3 images", None, None, (), None

    def __init__(self, good):
        self.good = good

    def __len__(self):
        return 3

    def identity(self, index):
        return str(index)

    def fingerprint(self):
        return "3"

    def read(self, index):
        if index not in self.good:
            raise BadSample(str(index), "damaged")
        return np.full((2 + index, 4, 1), index, np.uint8)


class TestMeasure:
    @pytest.mark.parametrize("dtype", list(DTYPES))
    def test_mean_and_deviation_of_all_pixels(self, dtype):
        values = noise(30, 6, 7, 2, dtype=dtype)
        values[..., 1] //= 2
        facts = images.measure(images.open(values))
        assert np.allclose(facts["mean"], values.astype(np.float64).mean(axis=(0, 1, 2)))
        assert np.allclose(facts["std"], values.astype(np.float64).std(axis=(0, 1, 2)))
        assert (facts["channels"], facts["dtype"], facts["height"], facts["width"]) == (2, dtype, 6, 7)
        assert facts["mixed_sizes"] is False

    def test_of_many_a_seeded_sample_counts(self):
        values = noise(2500, 2, 2)
        samples = images.open(values)
        assert images.measure(samples, 1) == images.measure(samples, 1) != images.measure(samples, 2)
        assert np.allclose(images.measure(samples)["mean"], values.mean(), rtol=0.02)

    def test_damaged_images_are_passed_over_and_sizes_mixed(self):
        facts = images.measure(Three((0, 2)))
        assert facts["mean"] == [pytest.approx(2 * 16 / (8 + 16))]
        assert facts["mixed_sizes"] is True
        with pytest.raises(UserError, match="no readable image"):
            images.measure(Three(()))


class TestRaw:
    def test_small_images_are_their_pixels(self):
        batch = {"image": torch.from_numpy(noise(4, 3, 8, 9))}
        assert torch.equal(images.raw(batch, {}), batch["image"].float().flatten(1))

    def test_large_images_are_averaged_to_32(self):
        batch = {"image": torch.from_numpy(noise(2, 1, 64, 96).astype(np.int32))}
        expected = batch["image"].float().reshape(2, 1, 32, 2, 32, 3).mean(dim=(3, 5)).flatten(1)
        assert torch.allclose(images.raw(batch, {}), expected, rtol=1e-6)


class TestPicture:
    def test_pixels_are_shown_as_they_are_and_enlarged_without_blur(self):
        pixels = noise(2, 3, 10, 20)
        picture = images.picture({"image": torch.from_numpy(pixels)}, 1, {})
        assert picture.shape == (50, 100, 3) and picture.dtype == np.uint8
        assert np.array_equal(picture[::5, ::5], pixels[1].transpose(1, 2, 0))
        assert np.array_equal(picture[2::5, 4::5], pixels[1].transpose(1, 2, 0))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
    def test_any_channels_and_depth(self, channels, dtype):
        values = torch.linspace(0, 255, 100).reshape(1, 1, 10, 10).repeat(1, channels, 1, 1).to(dtype) * 1
        picture = images.picture({"image": values}, 0, {})
        assert picture[0, 0, 0] < 5 and picture[-1, -1, 0] > 250
        assert (np.diff(picture[::10, ::10, 0].reshape(-1).astype(int)) >= 0).all()
        assert np.array_equal(picture[..., 0], picture[..., 2])

    def test_a_flat_image_is_shown_grey(self):
        assert (images.picture({"image": torch.full((1, 1, 4, 4), 3.5)}, 0, {}) == 128).all()

    def test_tokens_are_painted_in_raster_order(self):
        colours = torch.full((6, 3), float("nan"))
        colours[1] = torch.tensor([1.0, 0, 0])
        colours[5] = torch.tensor([0, 0, 1.0])
        batch = {"image": torch.zeros((1, 3, 64, 96), dtype=torch.uint8)}
        for grid in (None, (2, 3)):
            picture = images.picture(batch, 0, {}, colours, grid=grid)
            expected = np.zeros((64, 96, 3), np.uint8)
            expected[:32, 32:64] = [255, 0, 0]
            expected[32:, 64:] = [0, 0, 255]
            assert np.array_equal(picture, expected)
        with pytest.raises(ValueError, match="6 colours"):
            images.picture(batch, 0, {}, colours, grid=(2, 2))


class TestDiscovery:
    def test_every_domain_is_found_once_by_name(self):
        found = domains()
        assert found["image"] is images
        assert all(isinstance(domain, Domain) and domain.name == name for name, domain in found.items())
        assert not any(inspect.isabstract(type(domain)) for domain in found.values())

    def test_the_package_alone_imports_neither_torch_nor_decoders(self):
        program = (
            "import sys, anyjepa.domains, anyjepa.domains.sources, anyjepa.domains.image_sources;"
            "heavy = {'torch', 'datasets', 'tifffile', 'imagecodecs', 'PIL', 'sklearn', 'pyarrow'};"
            "print(sorted(heavy & sys.modules.keys()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ)
        )
        assert done.stdout.strip() == "[]"
