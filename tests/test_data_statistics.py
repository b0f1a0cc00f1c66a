"""Mean image and color PCA against NumPy in float64, and the file that holds them."""

import numpy as np
import pytest

from alexnet_jax.data import statistics as statistics_module
from alexnet_jax.data.statistics import (
    Statistics,
    Sums,
    color_products,
    compute_statistics,
    load_statistics,
    save_statistics,
)
from alexnet_jax.errors import UserError


def colored_images(count: int = 50, size: int = 6) -> np.ndarray:
    """Images whose channels are correlated and whose mean differs from pixel to pixel."""
    rng = np.random.default_rng(0)
    mixing = np.array([[50, 10, 5], [45, -12, 3], [40, 2, -9]])
    colors = rng.normal(size=(count, size, size, 3)) @ mixing.T + 120 + 20 * rng.normal(size=(size, size, 3))
    return colors.clip(0, 255).astype(np.uint8)


def test_against_float64_numpy():
    images = colored_images()
    statistics = compute_statistics(iter(images))
    np.testing.assert_allclose(statistics.mean_image, images.mean(axis=0, dtype=np.float64), rtol=1e-6)
    covariance = np.cov(images.reshape(-1, 3).astype(np.float64).T, bias=True)
    std, axes = statistics.color_std.astype(np.float64), statistics.color_axes.astype(np.float64)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose((axes * std**2) @ axes.T, covariance, rtol=1e-5)
    assert (np.diff(std) > 0).all()


def test_order_does_not_matter_to_the_bit():
    images = colored_images()
    for one, other in zip(compute_statistics(images), compute_statistics(images[::-1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sums_are_exact_where_float64_sums_are_not():
    """Bright images with a faint pattern: the textbook formula loses the small variances, exact sums don't."""
    images = np.full((3000, 8, 8, 3), 255, np.uint8)
    images[0, 0, 0] = (254, 255, 255)  # one pixel of 192,000 differs by one gray level, in red
    share = 1 / (3000 * 64)
    statistics = compute_statistics(images)
    np.testing.assert_allclose(statistics.color_std, [0, 0, np.sqrt(share * (1 - share))], rtol=1e-6)
    np.testing.assert_allclose(statistics.color_axes[:, 2], [1, 0, 0], atol=1e-7)


@pytest.mark.parametrize("count", [1, 256, 257, 258, 515])
def test_sums_of_white_images_do_not_overflow(count):
    sums = Sums.of([np.full((2, 2, 3), 255, np.uint8)] * count)
    assert sums.num_images == count
    assert (sums.pixels == 255 * count).all()
    assert (sums.products == 4 * 255**2 * count).all()


@pytest.mark.parametrize("size", [1, 2, 7, 24, 256])
def test_color_products_are_exact(size):
    random = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    extreme = np.where(random > 127, 255, 0).astype(np.uint8)
    for image in (random, extreme, np.full_like(random, 255)):
        pixels = image.reshape(-1, 3).astype(np.int64)
        np.testing.assert_array_equal(color_products(image), pixels.T @ pixels)


def test_parts_add_up_in_any_order():
    images = colored_images(9)
    parts = [Sums.of(images[:2]), Sums.of(images[2:3]), Sums.of(images[3:])]
    for one, other in zip(parts[2] + parts[0] + parts[1], Sums.of(images), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gray_images_have_one_axis():
    images = np.repeat(colored_images()[..., :1], 3, axis=-1)
    statistics = compute_statistics(images)
    np.testing.assert_array_equal(statistics.color_std[:2], 0)
    np.testing.assert_allclose(statistics.color_axes[:, 2], np.sqrt([1 / 3] * 3), rtol=1e-6)


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        compute_statistics([])


def test_published_values_are_a_principal_component_analysis():
    """Orthonormal axes, standard deviations of the channels as in cuda-convnet2's meta file: 74.0, 72.0, 77.0."""
    axes, std = np.array(statistics_module.IMAGENET_COLOR_AXES), np.array(statistics_module.IMAGENET_COLOR_STD)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(np.sqrt(((axes * std) ** 2).sum(axis=1)), [74.0, 72.0, 77.0], atol=0.1)


def test_saved_and_loaded(tmp_path):
    statistics = compute_statistics(colored_images())
    save_statistics(statistics, tmp_path)
    loaded = load_statistics(tmp_path)
    assert loaded.image_size == 6
    for one, other in zip(statistics, loaded, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.float32


def test_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"statistics\.npz is missing.*alexnet_jax\.prepare"):
        load_statistics(tmp_path)
    statistics = compute_statistics(colored_images())
    save_statistics(statistics, tmp_path)
    path = tmp_path / "statistics.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], whole[:200] + bytes(20) + whole[220:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"statistics\.npz is damaged"):
            load_statistics(tmp_path)
    broken = (
        statistics._replace(mean_image=statistics.mean_image[:, 1:]),
        statistics._replace(color_std=np.float32([1, 2])),
        statistics._replace(color_axes=np.full((3, 3), np.nan, np.float32)),
        Statistics(*(np.array(["x"], object) for _ in Statistics._fields)),  # would need pickle
    )
    for values in broken:
        np.savez(path, **values._asdict())
        with pytest.raises(UserError, match=r"statistics\.npz is damaged"):
            load_statistics(tmp_path)
