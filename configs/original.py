"""The net behind the paper's numbers, with its author's own deterministic schedule: the one to reproduce.

    python -m alexnet_jax.main --config=configs/original.py --workdir=runs/original

Hardware: one device, or two with --config.mesh.tower=2 (the paper: two GTX 580 of 3 GB, five to six days).
Expected on ILSVRC-2012 validation: 42.34 / 19.58 % top-1/top-5 error with the center view, 40.53 / 18.05 % with ten.
Source: [CODE] layers-145.cfg, and layer-params-170.cfg with its notes: learning rates fall in steps (`dexp`), color
noise ends at epoch 68 and conv1 is frozen at 74. The length of 95 epochs is that of its sister run
(layer-params-169.cfg).
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return run #170: net #145 with no change of the learning rate by hand."""
    config = imagenet.get_config()
    config.model.variant = "original"
    config.num_epochs = 95.0
    config.data.color_noise = "original"
    config.data.color_noise_until = 68 / 95
    config.optimizer.drops = (0.25, 0.5, 0.75)
    config.optimizer.drop_factor = 250 ** (-1 / 3)  # dexp[tgtFactor=250, numSteps=4]: 250 times less at the end
    config.optimizer.bias_rate = 2.0
    config.optimizer.bias_drops = (0.5,)  # dexp[tgtFactor=10, numSteps=2]
    config.optimizer.conv1_frozen_from = 74 / 95
    return config
