"""The paper's net on Imagenette: ten easily distinguished classes of ImageNet, 9,469 training photographs.

    python -m alexnet_jax.prepare --dataset=imagenette --source=imagenette2.tgz --data_dir=~/tensorflow_datasets
    python -m alexnet_jax.main --config=configs/imagenette.py --workdir=runs/imagenette

Hardware: one GPU, minutes. On a CPU, use a smaller net and smaller views, for example
`--config.model.image_size=112 --config.model.conv_width=0.25 --config.model.fc_width=0.0625`.
Few images mean few steps, so the hidden kernels start from sqrt(2 / fan-in): with the published deviations the loss
would stay on its first plateau for thousands of steps.
Measured on one CPU core with the smaller net above, images prepared with --size=128, and `--config.num_epochs=40`:
33.8 % top-1 error, 32.1 % with ten views, the mean of three seeds (chance: 90 %; `docs/reproduction.md`).
Source of the data: github.com/fastai/imagenette. Most of its validation images are training images of ImageNet.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return the recipe for ten classes; what is not set here is the paper's."""
    config = imagenet.get_config()
    config.model.num_classes = 10
    config.model.initialization = "he"

    config.data.name = "imagenette"

    config.optimizer.drops = (0.5, 0.75, 0.9)
    config.optimizer.bias_drops = config.optimizer.drops

    config.eval.every_epochs = 5.0
    config.checkpoint.every_epochs = 5.0
    return config
