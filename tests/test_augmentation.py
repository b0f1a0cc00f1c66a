"""Augmentation against a NumPy transcription of the released code's rules, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from random_nets import QUICK_TO_COMPILE

from alexnet_jax.data import augmentation
from alexnet_jax.data.statistics import Statistics

STORED, SEEN = 12, 8  # pixels a side
NUM_OFFSETS = STORED - SEEN + 1

augment = jax.jit(
    augmentation.augment,
    static_argnames=("image_size", "crop", "flip", "color_noise", "mean", "std"),
    compiler_options=QUICK_TO_COMPILE,
)


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    """Return a mean image without symmetries, and the principal axes of some correlated colors."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mean_image = rng.uniform(80, 160, (STORED, STORED, 3))
    return Statistics(mean_image.astype(np.float32), np.float32([20, 37, 122]), axes.astype(np.float32))


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, STORED, STORED, 3), dtype=np.uint8)


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(7), count)


def released_view(image: np.ndarray, row: int, column: int, mirrored: bool, mean_image: np.ndarray) -> np.ndarray:
    """Follow convdata_jpeg.py: the crop or its mirror image, minus the center of the mean image, which is not moved."""
    crop = image[row : row + SEEN, column : column + SEEN].astype(np.float64)
    border = (STORED - SEEN) // 2
    return (crop[:, ::-1] if mirrored else crop) - mean_image[border : border + SEEN, border : border + SEEN]


def find_view(view: np.ndarray, image: np.ndarray, mean_image: np.ndarray) -> tuple[int, int, bool]:
    """Find which crop of the image this view is; there must be exactly one."""
    found = [
        (row, column, mirrored)
        for row in range(NUM_OFFSETS)
        for column in range(NUM_OFFSETS)
        for mirrored in (False, True)
        if np.abs(view - released_view(image, row, column, mirrored, mean_image)).max() < 1e-3
    ]
    assert len(found) == 1
    return found[0]


def test_views_are_those_of_the_released_code(statistics):
    """Every view is one of the (S - s + 1)^2 crops or its mirror image; all occur, equally often."""
    images = random_images(600)
    options = {"image_size": SEEN, "crop": "random", "color_noise": "none", "mean": "image"}
    views = augment(images, keys(600), statistics, flip=True, **options)
    assert views.shape == (600, SEEN, SEEN, 3)
    assert views.dtype == jnp.float32
    drawn = [find_view(np.asarray(v), i, statistics.mean_image) for v, i in zip(views, images, strict=True)]
    for axis in (0, 1):
        counts = np.bincount([draw[axis] for draw in drawn], minlength=NUM_OFFSETS)
        assert len(counts) == NUM_OFFSETS
        assert ((counts - 120) ** 2 / 120).sum() < 18.5  # chi-square with 4 degrees of freedom, 1 in 1000
    assert abs(sum(mirrored for *_, mirrored in drawn) - 300) < 41  # 3.3 standard deviations
    assert len({draw[:2] for draw in drawn}) == NUM_OFFSETS**2  # rows and columns are drawn apart

    unmirrored = augment(images, keys(600), statistics, flip=False, **options)
    for view, image, (row, column, _) in zip(unmirrored[:20], images, drawn, strict=False):
        assert find_view(np.asarray(view), image, statistics.mean_image) == (row, column, False)


@settings(max_examples=12)
@given(
    size=st.sampled_from([1, 5, SEEN, STORED]),
    crop=st.sampled_from(["random", "center"]),
    flip=st.booleans(),
    color_noise=st.sampled_from(["original", "paper", "none"]),
    mean=st.sampled_from(["image", "channel"]),
    std=st.sampled_from([(), (58.4, 57.1, 57.4)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_view_is_a_crop_that_the_key_alone_chose(statistics, size, crop, flip, color_noise, mean, std, seed):
    """An image whose pixels encode their positions shows the choice; any other image is cut there, pixel for pixel."""
    keys, images = jax.random.split(jax.random.key(seed), 4), random_images(4)
    rows, columns = np.indices((STORED, STORED), np.uint8)
    places = np.stack([rows, columns, rows], axis=-1)
    no_mean = statistics._replace(mean_image=np.zeros_like(statistics.mean_image))
    options = {"image_size": size, "crop": crop, "flip": flip}
    told = augment(np.stack([places] * 4), keys, no_mean, color_noise="none", mean="image", **options)
    views = augment(images, keys, statistics, color_noise=color_noise, mean=mean, std=std, **options)
    border, mean_image = (STORED - size) // 2, statistics.mean_image.astype(float)
    center = mean_image[border : border + size, border : border + size]
    for view, image, place in zip(np.asarray(views, float), images, np.asarray(told, int), strict=True):
        row, (left, right) = place[0, 0, 0], sorted((place[0, 0, 1], place[0, -1, 1]))
        step = 1 if place[0, 0, 1] == left else -1
        assert flip or step == 1
        assert crop == "random" or row == left == border
        expected = image[row : row + size, left : right + 1][:, ::step] - (
            center if mean == "image" else mean_image.mean(axis=(0, 1))
        )
        found = view * np.array(std or 1.0) * (1.1 if color_noise == "original" else 1.0)
        color = found[0, 0] - expected[0, 0] if color_noise != "none" else 0.0
        np.testing.assert_allclose(found, expected + color, atol=1e-3)


DEVIATIONS = st.tuples(*[st.floats(0, 200)] * 3)


@settings(max_examples=30)
@given(DEVIATIONS, DEVIATIONS, st.integers(0, 2**32 - 1))
def test_color_noise_is_linear_in_the_deviations(statistics, first, second, seed):
    def shift(deviations):
        of_these = statistics._replace(color_std=np.float32(deviations))
        return np.asarray(augmentation.color_shift(jax.random.key(seed), of_these))

    np.testing.assert_allclose(shift(np.add(first, second)), shift(first) + shift(second), atol=1e-3)


@pytest.mark.parametrize(("kind", "divisor"), [("original", 1.1), ("paper", 1.0)])
def test_color_noise(statistics, kind, divisor):
    """One color per image is added after the mean; its parts along the axes are normal with 0.1 sigma_k."""
    images = random_images(2000)
    options = {"image_size": SEEN, "crop": "random", "flip": True, "mean": "image"}
    plain = np.asarray(augmentation.augment(images, keys(2000), statistics, color_noise="none", **options), np.float64)
    noisy = np.asarray(augmentation.augment(images, keys(2000), statistics, color_noise=kind, **options), np.float64)
    shifts = noisy * divisor - plain
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape), atol=2e-4)
    z = shifts[:, 0, 0] @ statistics.color_axes / (0.1 * statistics.color_std)  # [2000, 3]
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=0.11)
    assert (np.abs(z).max(axis=0) > 2.7).all()  # the tails are there


@pytest.mark.parametrize("kind", ["original", "paper"])
def test_color_noise_can_be_switched_off_without_compiling_again(statistics, kind):
    """Without noise there is no division by 1.1 either."""
    compilations = 0

    @jax.jit
    def augment(active):
        nonlocal compilations
        compilations += 1
        return augmentation.augment(
            random_images(4), keys(4), statistics,
            image_size=SEEN, crop="random", flip=True, color_noise=kind, mean="image", noise_active=active,
        )  # fmt: skip

    plain = augmentation.augment(
        random_images(4),
        keys(4),
        statistics,
        image_size=SEEN,
        crop="random",
        flip=True,
        color_noise="none",
        mean="image",
    )
    np.testing.assert_array_equal(augment(False), plain)
    assert np.abs(augment(True) - plain).max() > 1
    assert compilations == 1


def test_choices_depend_on_the_key_alone(statistics):
    """The same image with the same key gives the same view in another batch, another order, on eight devices."""
    images = random_images(16)
    options = {"image_size": SEEN, "crop": "random", "flip": True, "color_noise": "original", "mean": "image"}

    def augment(images, keys):
        return augmentation.augment(images, keys, statistics, **options)

    whole = jax.jit(augment)(images, keys(16))
    np.testing.assert_array_equal(jax.jit(augment)(images[5:8][::-1], keys(16)[5:8][::-1]), whole[5:8][::-1])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.jit(jax.shard_map(augment, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    np.testing.assert_array_equal(sharded(images, keys(16)), whole)


def test_division_by_the_standard_deviation(statistics):
    """As torchvision's presets, on the scale 0 to 1: (x / 255 - mean) / std; in every kind of view, noise or not."""
    images, std = random_images(3), (0.229 * 255, 0.224 * 255, 0.225 * 255)
    options = {"image_size": SEEN, "mean": "channel"}
    mean = statistics.mean_image.mean(axis=(0, 1)) / 255
    expected = (images[:, 2:10, 2:10] / 255 - mean) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(augmentation.center_view(images, statistics, std=std, **options), expected, atol=1e-5)
    views = augmentation.several_views(images, statistics, flip=True, std=std, **options)
    np.testing.assert_allclose(views[:, 2], expected, atol=1e-5)
    for noise in ("none", "paper"):
        options |= {"crop": "random", "flip": True, "color_noise": noise}
        plain = augmentation.augment(images, keys(3), statistics, **options)
        divided = augmentation.augment(images, keys(3), statistics, std=std, **options)
        np.testing.assert_allclose(divided, plain / np.array(std), atol=1e-5)


def test_channel_means(statistics):
    images = random_images(3)
    view = augmentation.center_view(images, statistics, image_size=SEEN, mean="channel")
    expected = images[:, 2:10, 2:10].astype(np.float64) - statistics.mean_image.astype(np.float64).mean(axis=(0, 1))
    np.testing.assert_allclose(view, expected, atol=1e-4)


@pytest.mark.parametrize("size", [8, 7, 12])
def test_center_view(statistics, size):
    images, start = random_images(3), (STORED - size) // 2
    center = slice(start, start + size)
    view = augmentation.center_view(images, statistics, image_size=size, mean="image")
    expected = images[:, center, center].astype(np.float64) - statistics.mean_image[center, center]
    np.testing.assert_allclose(view, expected, atol=1e-4)


def test_ten_views(statistics):
    """convdata_jpeg.py: (0, 0), (0, 2b), (b, b), (2b, 0), (2b, 2b), with b the border, and their mirror images."""
    images = random_images(3)
    views = augmentation.several_views(images, statistics, image_size=SEEN, flip=True, mean="image")
    assert views.shape == (3, 10, SEEN, SEEN, 3)
    for image, of_image in zip(images, views, strict=True):
        for number, (row, column) in enumerate([(0, 0), (0, 4), (2, 2), (4, 0), (4, 4)]):
            for mirrored in (False, True):
                expected = released_view(image, row, column, mirrored, statistics.mean_image)
                np.testing.assert_allclose(of_image[number + 5 * mirrored], expected, atol=1e-4)
    center = augmentation.center_view(images, statistics, image_size=SEEN, mean="image")
    np.testing.assert_array_equal(views[:, 2], center)
    unmirrored = augmentation.several_views(images, statistics, image_size=SEEN, flip=False, mean="image")
    np.testing.assert_array_equal(unmirrored, views[:, :5])
