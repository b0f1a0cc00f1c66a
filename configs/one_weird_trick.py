"""The single-tower net of "One weird trick for parallelizing convolutional neural networks" (2014).

    python -m alexnet_jax.main --config=configs/one_weird_trick.py --workdir=runs/one_weird_trick

Hardware: one device (cuda-convnet2: one GPU of 2014, 8.4 seconds for 3072 images).
Expected on ILSVRC-2012 validation: 42.55 / 19.81 % top-1/top-5 error with the center view, 40.42 / 18.15 % with ten.
Source: [CC2] layers-imagenet-1gpu.cfg, layer-params-imagenet-1gpu.cfg and TrainingExample.md in its wiki. The schedule
is that of `configs/original.py` over 90 epochs; color noise and the training of conv1 continue to the end.
"""

from alexnet_jax.config import Config
from configs import original


def get_config() -> Config:
    """Return cuda-convnet2's example for one GPU."""
    config = original.get_config()
    config.model.variant = "one_weird_trick"
    config.num_epochs = 90.0
    config.data.color_noise_until = 1.0
    config.optimizer.conv1_frozen_from = 1.0
    return config
