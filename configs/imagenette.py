"""The paper's net on Imagenette: ten easily told classes of ImageNet, 9,469 photographs to train on.

    python -m alexnet_jax.prepare --dataset=imagenette --source=imagenette2.tgz --data_dir=~/tensorflow_datasets
    python -m alexnet_jax.main --config=configs/imagenette.py --workdir=runs/imagenette

Hardware: one GPU, minutes. On a CPU make the net and its views smaller, for example
`--config.model.image_size=112 --config.model.conv_width=0.25 --config.model.fc_width=0.0625`.
Few images mean few steps, so the hidden kernels start from sqrt(2 / fan-in): the published deviations would need
thousands of steps to leave the plateau. Measured on one CPU core with the smaller net above, images prepared with
--size=128, and `--config.num_epochs=40`: top-1 error 33.8 %, with ten views 32.1 %, the mean of three seeds (chance:
90 %; `docs/reproduction.md`).
Source of the data: github.com/fastai/imagenette. Most of its validation images are training images of ImageNet.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Ten classes instead of a thousand; what is not changed here is the paper's."""
    config = imagenet.get_config()
    config.model.num_classes = 10
    config.model.initialization = "he"

    config.data.name = "imagenette"

    config.optimizer.drops = (0.5, 0.75, 0.9)
    config.optimizer.bias_drops = config.optimizer.drops

    config.eval.every_epochs = 5.0
    config.checkpoint.every_epochs = 5.0
    return config
