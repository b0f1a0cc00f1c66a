"""The paper's net, reduced, on CIFAR-10 enlarged to 80 x 80 pixels, seen in views of 64 x 64.

    python -m alexnet_jax.prepare --dataset=cifar10 --size=80 --source=cifar-10-python.tar.gz \
        --data_dir=~/tensorflow_datasets
    python -m alexnet_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

The net's strides need views of at least 64 pixels, so the images' own 32 are too few. (Without --size, `prepare` stores
them unchanged and without loss, for nets that take crops of 24.)
Hardware: one GPU; a CPU works but is slow.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return the recipe with a quarter of the kernels and an eighth of the units, started from sqrt(2 / fan-in)."""
    config = imagenet.get_config()
    config.num_epochs = 60.0

    config.model.num_classes = 10
    config.model.image_size = 64
    config.model.conv_width = 0.25
    config.model.fc_width = 0.125
    config.model.initialization = "he"

    config.data.name = "cifar10_80"
    config.data.eval_split = "test"

    config.optimizer.drops = (0.5, 0.75, 0.9)
    config.optimizer.bias_drops = config.optimizer.drops

    config.eval.every_epochs = 5.0
    config.checkpoint.every_epochs = 5.0
    return config
