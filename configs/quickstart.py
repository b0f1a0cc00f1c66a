"""The paper's net, reduced, on the built-in handwritten digits: learns in minutes on two CPU cores.

    bash launch/quickstart.sh

runs `python -m alexnet_jax.main --config=configs/quickstart.py --workdir=runs/quickstart`.

As in the paper: two towers, response normalization, overlapping pooling and dropout. Reduced: a quarter of the kernels,
an eighth of the units, and 64-pixel views of 72-pixel images. The published standard deviations belong to the published
widths, so the hidden kernels start from sqrt(2 / fan-in) instead. The learning rate rises for nine epochs: at the full
rate the loss tripled in two steps, and what rounding changed grew to percents within 20.
Expected: at most 2 % top-1 error on the 360 held-out digits (0.8, 1.1 and 0.8 % with seeds 0 to 2).
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return the recipe for the digits; what is not set here is the paper's."""
    config = imagenet.get_config()
    config.num_epochs = 90.0

    config.model.num_classes = 10
    config.model.image_size = 64
    config.model.conv_width = 0.25
    config.model.fc_width = 0.125
    config.model.initialization = "he"

    config.data.name = "digits"
    config.data.dir = "data"
    config.data.flip = False  # most mirrored digits are not digits
    config.data.color_noise = "none"  # the digits are gray

    config.optimizer.warmup = 0.1
    config.optimizer.drops = (0.6, 0.8, 0.95)
    config.optimizer.bias_drops = config.optimizer.drops

    config.eval.every_epochs = 10.0
    config.checkpoint.every_epochs = 5.0
    config.log.every_steps = 20
    return config
