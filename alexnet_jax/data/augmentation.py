"""From stored images to what the net sees, on the device: crop, mirror, mean, color noise; and the views of testing.

Source: paper section 4.1, and the released code's convdata_jpeg.py where the paper is silent. Pixels keep their
scale of 0 to 255: response normalization and initialization depend on it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from alexnet_jax.data.statistics import Statistics

NOISE_STD = 0.1  # of the color noise along each principal axis, in standard deviations of the training set


def augment(
    images: jax.Array,
    keys: jax.Array,
    statistics: Statistics,
    *,
    image_size: int,
    crop: str,
    flip: bool,
    color_noise: str,
    mean: str,
    std: Sequence[float] = (),
    noise_active: jax.Array | bool = True,
) -> jax.Array:
    """Random views for training: uint8 [B, S, S, 3], random keys [B] -> float32 [B, image_size, image_size, 3].

    Each image is cropped at one of (S - image_size + 1)^2 offsets (33 x 33 for 224 of 256, as the released code; the
    paper counts 32 x 32), mirrored with probability 1/2 if `flip`, and freed of the mean; then its colors are shifted.
    The crop and the mirroring are drawn for every image, as the paper implies (the released code: for 32 at a time).
    Whatever is random in an image is a function of its key alone. `noise_active` may be traced: the color noise was
    switched off for the last quarter of the training, and no new compilation is needed for that.
    `crop` is "random", or "center" for the central view of every image (no augmentation, as in the paper's Figure 1);
    `color_noise` is "original", "paper" or "none" (`add_color_noise`), `mean` "image" or "channel" (`subtract_mean`);
    `std` is what the colors are divided by at the end (`divide`).
    """
    crop_keys, flip_keys, color_keys = jnp.unstack(jax.vmap(lambda key: jax.random.split(key, 3))(keys), axis=1)
    if crop == "center":
        views = _center(images, image_size)
    else:
        views = jax.vmap(lambda image, key: random_crop(image, key, image_size))(images, crop_keys)
    if flip:
        mirrored = jax.vmap(jax.random.bernoulli)(flip_keys)
        views = jnp.where(mirrored[:, None, None, None], views[:, :, ::-1], views)
    views = subtract_mean(views, statistics, mean)
    if color_noise == "none":
        return divide(views, std)
    shifts = jax.vmap(lambda key: color_shift(key, statistics))(color_keys)
    return divide(add_color_noise(views, shifts, color_noise, noise_active), std)


def random_crop(image: jax.Array, key: jax.Array, size: int) -> jax.Array:
    """A size x size part of an image [S, S, 3], all offsets equally likely."""
    row, column = jax.random.randint(key, (2,), 0, image.shape[0] - size + 1)
    return jax.lax.dynamic_slice(image, (row, column, 0), (size, size, 3))


def subtract_mean(views: jax.Array, statistics: Statistics, mean: str) -> jax.Array:
    """Views [..., s, s, 3] less the mean, float32.

    "image": the central s x s of the mean image, wherever the view lies and whether or not it is mirrored (the
    released code, convdata_jpeg.py). "channel": the mean of each channel over the whole mean image.
    """
    return views.astype(jnp.float32) - mean_to_subtract(statistics, mean, views.shape[-2])


def mean_to_subtract(statistics: Statistics, mean: str, size: int) -> jax.Array:
    """What `subtract_mean` takes from views of so many pixels a side: float32 [size, size, 3], or [3] for "channel"."""
    mean_image = jnp.asarray(statistics.mean_image, jnp.float32)
    if mean == "channel":
        # Rows first: a float32 sum over all pixels at once would be off by some thousandths of a gray level.
        return mean_image.mean(axis=0).mean(axis=0)
    return _center(mean_image, size)


def divide(views: jax.Array, std: Sequence[float]) -> jax.Array:
    """Views [..., 3] over the three numbers `std`, gray levels; without any, as they are.

    Nets of PyTorch's model zoo were trained on colors of standard deviation 1; the paper's and Caffe's were not.
    """
    return views / jnp.asarray(std, jnp.float32) if std else views


def color_shift(key: jax.Array, statistics: Statistics) -> jax.Array:
    """A random color [3]: sum over k of p_k sigma_k z_k, with z_k standard normal (paper section 4.1).

    sigma_k are the standard deviations along the principal axes p_k. The paper's text has the eigenvalues, their
    squares, in this place; on pixels of 0 to 255 those would shift ImageNet's colors by 1,500 gray levels.
    """
    z = jax.random.normal(key, (3,), jnp.float32)
    return (jnp.asarray(statistics.color_axes) * (jnp.asarray(statistics.color_std) * z)).sum(axis=1)


def add_color_noise(views: jax.Array, shifts: jax.Array, kind: str, active: jax.Array | bool) -> jax.Array:
    """Adds 0.1 times its shift [B, 3] to every pixel of each view [B, s, s, 3], where `active`.

    "original" then divides by 1.1, only while the noise is on (convdata_jpeg.py); "paper" does not.
    """
    noisy = views + NOISE_STD * shifts[:, None, None, :]
    if kind == "original":
        noisy = noisy / (1 + NOISE_STD)
    return jnp.where(active, noisy, views)


def center_view(
    images: jax.Array, statistics: Statistics, *, image_size: int, mean: str, std: Sequence[float] = ()
) -> jax.Array:
    """The central view of each image: uint8 [B, S, S, 3] -> float32 [B, image_size, image_size, 3]."""
    return divide(subtract_mean(_center(images, image_size), statistics, mean), std)


def ten_views(
    images: jax.Array, statistics: Statistics, *, image_size: int, mean: str, std: Sequence[float] = ()
) -> jax.Array:
    """The ten views of testing: uint8 [B, S, S, 3] -> float32 [B, 10, image_size, image_size, 3].

    The crops at the corners and in the middle, in the order of the released code: top left, top right, center, bottom
    left, bottom right; then their mirror images (paper section 4.1).
    """
    end = images.shape[1] - image_size
    middle = end // 2
    corners = ((0, 0), (0, end), (middle, middle), (end, 0), (end, end))
    crops = [images[:, row : row + image_size, column : column + image_size] for row, column in corners]
    views = jnp.stack(crops + [crop[:, :, ::-1] for crop in crops], axis=1)
    return divide(subtract_mean(views, statistics, mean), std)


def _center(images: jax.Array, size: int) -> jax.Array:
    """The central size x size of images [..., S, S, 3]; where it can't be exact, one pixel nearer to the top left."""
    start = (images.shape[-2] - size) // 2
    return images[..., start : start + size, start : start + size, :]
