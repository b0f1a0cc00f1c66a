"""The author's four-layer net for CIFAR-10 without normalization: the paper's "13 %" (section 3.3) and figure 1.

    python -m alexnet_jax.prepare --dataset=cifar10 --source=cifar-10-python.tar.gz --data_dir=~/tensorflow_datasets
    python -m alexnet_jax.main --config=configs/cifar_13pct.py --workdir=runs/cifar_13pct

Hardware: one GPU (the author: 20 minutes on a GTX 580 of 2011), or two CPU cores for a day.
Expected: 13 % test error with ten views.
Source: cuda-convnet, `example-layers/layers-conv-local-13pct.cfg` and `layer-params-conv-local-13pct.cfg`. The files
give learning rates and weight decay but no length; the length and the two drops here are those of the 11 % net.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return the author's learning rates and weight decay, for 500 epochs and ten more after each of two drops."""
    config = imagenet.get_config()
    config.num_epochs = 520.0

    config.model.variant = "cifar_13pct"
    config.model.num_classes = 10
    config.model.image_size = 24

    config.data.name = "cifar10"
    config.data.eval_split = "test"
    config.data.color_noise = "none"

    config.optimizer.learning_rate = 0.001
    config.optimizer.bias_rate = 2.0
    config.optimizer.weight_decay = 0.004  # of the locally connected layers and the classifier: see model/cifar.py
    config.optimizer.drops = (500 / 520, 510 / 520)
    config.optimizer.bias_drops = ()

    config.eval.every_epochs = 10.0
    config.checkpoint.every_epochs = 10.0
    return config
