"""The paper's CNN*: a sixth convolution after the last pooling layer.

    python -m alexnet_jax.main --config=configs/six_conv.py --workdir=runs/six_conv

Hardware: one device, or two with --config.mesh.tower=2.
Expected on ILSVRC-2012 validation with ten views: 39.0 / 16.6 % top-1/top-5 error (paper, table 2), but only after
pre-training on ImageNet Fall 2011 with its 22,000 classes. Nothing is published for a random start.
Source: [CODE] layers-146-2012-2011.cfg (38.99 / 16.62 % in its notes). The schedule is that of `configs/original.py`.
"""

from alexnet_jax.config import Config
from configs import original


def get_config() -> Config:
    """Return the author's recipe with another net."""
    config = original.get_config()
    config.model.variant = "six_conv"
    return config
