"""The run behind the paper's ILSVRC-2012 numbers, with the learning rates that its author set by hand.

    python -m alexnet_jax.main --config=configs/original_145.py --workdir=runs/original_145

Hardware: one device, or two with --config.mesh.tower=2 (the paper: two GTX 580 of 3 GB, five to six days).
Expected on ILSVRC-2012 validation with ten views: 40.66 / 18.21 % top-1/top-5 error (the paper's 40.7 / 18.2).
`configs/original.py` reaches the same error with a fixed schedule.
Source: [CODE] layers-145.cfg and the notes in layer-params-145.cfg. They don't say when the learning rate of the biases
fell; here it falls once, with the first drop, as in the author's scripted runs (layer-params-120-4gpu-auto*.cfg).
"""

from alexnet_jax.config import Config
from configs import original


def get_config() -> Config:
    """Return run #145: 91 epochs."""
    config = original.get_config()
    config.num_epochs = 91.0
    config.data.color_noise_until = 67 / 91
    config.optimizer.drops = (25 / 91, 51 / 91, 79 / 91)
    config.optimizer.drop_factor = 0.1
    config.optimizer.bias_drops = (25 / 91,)
    config.optimizer.conv1_drops = (67 / 91,)
    config.optimizer.conv1_frozen_from = 72 / 91
    return config
