"""BVLC AlexNet in batches of 8,192 with LARS (You, Gitman and Ginsburg, 2017, arXiv 1708.03888).

    python -m alexnet_jax.main --config=configs/large_batch.py --workdir=runs/large_batch --config.mesh.data=8

Hardware: many devices, or `--config.gradient_accumulation=K` on few: each device holds 8,192 / (data x K) images at
once.
Expected: no published number for exactly this, and it has not been run here.
Source: NVCaffe's configurations for AlexNet (branch caffe-0.17-ls): learning rate 10 for batches of 8,192, 16 for
16,384 and 32 for 32,768, trust coefficient 0.001, learning rate x (1 - t)^2, weight decay 0.0005, 100 epochs. With
batches of 32,768 and a net with batch normalization, 100 epochs took 24 and 11 minutes (You et al., "ImageNet training
in minutes", abstracts).
Three differences: NVCaffe clips each layer's own learning rate, Optax's LARS does not; Optax divides by |g + decay w|,
the paper by |g| + decay |w|; and LARS leaves out the biases here, whose learning rate follows from linear scaling (0.02
for 256 images), not from a source.
"""

from alexnet_jax.config import Config
from configs import caffe


def get_config() -> Config:
    """Return NVCaffe's recipe for batches of 8,192."""
    config = caffe.get_config()
    config.batch_size = 8192
    config.num_epochs = 100.0
    config.optimizer.rule = "lars"
    config.optimizer.schedule = "polynomial"
    config.optimizer.learning_rate = 10.0
    config.optimizer.bias_rate = 0.02 * 8192 / 256 / 10.0
    config.optimizer.weight_decay = 0.0005
    return config
