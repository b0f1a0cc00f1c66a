"""BVLC AlexNet, with Caffe's recipe: 227 pixels, batches of 256, small biases.

    python -m alexnet_jax.main --config=configs/caffe.py --workdir=runs/caffe

Hardware: one device, or two with --config.mesh.tower=2.
Expected on ILSVRC-2012 validation with the center view: 42.9 / 19.8 % top-1/top-5 error.
Source: [CAFFE] models/bvlc_alexnet: train_val.prototxt, solver.prototxt, readme.md. Two differences: Caffe squeezed
images to 256x256, while this project keeps their aspect ratio and crops the center; and Caffe subtracted the part of
the mean image under the crop, while this project always subtracts its center.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return 450,000 iterations of 256 images, with a tenth of the learning rate after every 100,000."""
    config = imagenet.get_config()
    config.model.variant = "caffe"
    config.model.image_size = 227
    config.batch_size = 256
    config.num_epochs = 450_000 * 256 / 1_281_167  # 89.9 times ILSVRC-2012's training set
    config.data.color_noise = "none"
    config.optimizer.drops = (2 / 9, 4 / 9, 6 / 9, 8 / 9)
    config.optimizer.bias_rate = 2.0
    config.optimizer.bias_drops = config.optimizer.drops
    return config
