"""The net that PyTorch calls AlexNet: the widths of "One weird trick", without normalization.

    python -m alexnet_jax.main --config=configs/torchvision.py --workdir=runs/torchvision

Hardware: one device (torchvision: eight V100 with 32 images each).
Expected on ILSVRC-2012 validation with the center view: 43.48 / 20.93 % top-1/top-5 error, for torchvision's recipe.
Source: [TV] torchvision/models/alexnet.py, references/classification/README.md. Two differences: torchvision crops at
random sizes and aspect ratios; and PyTorch's SGD keeps the learning rate outside the momentum buffer, so that after a
drop the old updates shrink at once instead of fading out.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return 90 epochs with a tenth of the learning rate after 30 and 60, and weight decay on everything."""
    config = imagenet.get_config()
    config.model.variant = "torchvision"
    config.batch_size = 256
    config.data.color_noise = "none"
    config.data.mean = "channel"
    config.data.std = (0.229 * 255, 0.224 * 255, 0.225 * 255)  # references/classification/presets.py
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_biases = True
    config.optimizer.drops = (1 / 3, 2 / 3)
    config.optimizer.bias_drops = config.optimizer.drops
    return config
