"""From stored images to the network's input, on the device: crop, mirror, mean, color noise; and the test views.

Source: paper section 4.1, and the released code's convdata_jpeg.py where the paper is silent. Pixels keep their
scale of 0 to 255, on which response normalization and initialization depend. S is the side of the stored images in
pixels, s = `image_size` that of the views.
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
    """Return random training views: images uint8 [B, S, S, 3], keys [B] -> float32 [B, s, s, 3].

    Everything random about an image is a function of its key alone. Crop and mirroring are drawn for each image, as the
    paper implies (the released code: for 32 at a time).

    `crop` is "random", at one of (S - s + 1)^2 offsets (33 x 33 for 224 of 256, as in the released code; the paper
    counts 32 x 32), or "center" for the central view (no augmentation, as in the paper's Figure 1). With `flip`, views
    are mirrored with probability 1/2. `mean` ("image" or "channel") is subtracted (`mean_to_subtract`), `color_noise`
    ("original", "paper" or "none") is added (`add_color_noise`), and the result is divided by `std` (`divide`).
    `noise_active` may be traced: color noise was off for the last quarter of the original training, and switching it
    needs no recompilation.
    """
    crop_keys, flip_keys, color_keys = jnp.unstack(jax.vmap(lambda key: jax.random.split(key, 3))(keys), axis=1)
    if crop == "center":
        views = _center(images, image_size)  # [B, S, S, 3] -> [B, s, s, 3]
    else:
        views = jax.vmap(random_crop, in_axes=(0, 0, None))(images, crop_keys, image_size)  # -> [B, s, s, 3]
    if flip:
        mirrored = jax.vmap(jax.random.bernoulli)(flip_keys)  # [B]
        views = jnp.where(mirrored[:, None, None, None], views[:, :, ::-1], views)
    views = views - mean_to_subtract(statistics, mean, image_size)  # uint8 -> float32
    if color_noise != "none":
        shifts = jax.vmap(color_shift, in_axes=(0, None))(color_keys, statistics)  # [B, 3]
        views = add_color_noise(views, shifts, color_noise, noise_active)
    return divide(views, std)


def random_crop(image: jax.Array, key: jax.Array, size: int) -> jax.Array:
    """Crop an image at random, all offsets equally likely: [S, S, 3] -> [size, size, 3]."""
    row, column = jax.random.randint(key, (2,), 0, image.shape[0] - size + 1)
    return jax.lax.dynamic_slice(image, (row, column, 0), (size, size, 3))


def mean_to_subtract(statistics: Statistics, mean: str, size: int) -> jax.Array:
    """Return the mean that is subtracted from views of this size: float32 [size, size, 3], or [3] for "channel".

    "image": the center of the mean image, wherever the view is in its image and whether or not it is mirrored (the
    released code, convdata_jpeg.py). "channel": the mean of each channel over the whole mean image.
    """
    mean_image = jnp.asarray(statistics.mean_image, jnp.float32)
    if mean == "channel":
        # Rows first: a float32 sum over all pixels at once would be off by some thousandths of a gray level.
        return mean_image.mean(axis=0).mean(axis=0)  # [S, S, 3] -> [S, 3] -> [3]
    return _center(mean_image, size)  # [S, S, 3] -> [size, size, 3]


def divide(views: jax.Array, std: Sequence[float]) -> jax.Array:
    """Divide views [..., 3] by `std`, one gray level per channel; an empty `std` leaves them as they are.

    PyTorch's model zoo was trained on colors of standard deviation 1; the paper's and Caffe's nets were not.
    """
    return views / jnp.asarray(std, jnp.float32) if std else views


def color_shift(key: jax.Array, statistics: Statistics) -> jax.Array:
    """Draw a random color [3]: the sum over k of p_k sigma_k z_k, with z_k standard normal (paper section 4.1).

    sigma_k are the standard deviations along the principal axes p_k. The paper's text has the eigenvalues, their
    squares, instead; on pixels of 0 to 255 those would shift ImageNet's colors by 1,500 gray levels.
    """
    z = jax.random.normal(key, (3,), jnp.float32)
    return (jnp.asarray(statistics.color_axes) * (jnp.asarray(statistics.color_std) * z)).sum(axis=1)  # [3, 3] -> [3]


def add_color_noise(views: jax.Array, shifts: jax.Array, kind: str, active: jax.Array | bool) -> jax.Array:
    """Add 0.1 times its shift (shifts: [B, 3]) to every pixel of each view [B, s, s, 3], if `active`.

    "original" then divides by 1.1, only while the noise is on (convdata_jpeg.py); "paper" does not.
    """
    noisy = views + NOISE_STD * shifts[:, None, None, :]
    if kind == "original":
        noisy = noisy / (1 + NOISE_STD)
    return jnp.where(active, noisy, views)


def center_view(
    images: jax.Array, statistics: Statistics, *, image_size: int, mean: str, std: Sequence[float] = ()
) -> jax.Array:
    """Return the central view of each image: uint8 [B, S, S, 3] -> float32 [B, s, s, 3]."""
    return divide(_center(images, image_size) - mean_to_subtract(statistics, mean, image_size), std)


def several_views(
    images: jax.Array, statistics: Statistics, *, image_size: int, flip: bool, mean: str, std: Sequence[float] = ()
) -> jax.Array:
    """Return several test views of each image: uint8 [B, S, S, 3] -> float32 [B, 10, s, s, 3], or 5 without `flip`.

    These are the four corner crops and the center crop, in the order of the released code (top left, top right,
    center, bottom left, bottom right), then, with `flip`, their mirror images (paper section 4.1).
    """
    end = images.shape[1] - image_size
    middle = end // 2
    offsets = ((0, 0), (0, end), (middle, middle), (end, 0), (end, end))
    crops = [images[:, row : row + image_size, column : column + image_size] for row, column in offsets]
    crops += [crop[:, :, ::-1] for crop in crops] if flip else []
    views = jnp.stack(crops, axis=1)  # 5 or 10 x [B, s, s, 3] -> [B, 5 or 10, s, s, 3]
    return divide(views - mean_to_subtract(statistics, mean, image_size), std)


def _center(images: jax.Array, size: int) -> jax.Array:
    """Return the center of images, rounded to the top left: [..., S, S, 3] -> [..., size, size, 3]."""
    start = (images.shape[-2] - size) // 2
    return images[..., start : start + size, start : start + size, :]
