"""The paper's net on your own images: one folder per class, or train/ and val/ with such folders.

    python -m alexnet_jax.prepare --dataset=folder --source=PATH --name=mine --data_dir=~/tensorflow_datasets
    python -m alexnet_jax.main --config=configs/folder.py --workdir=runs/mine --config.data.name=mine \
        --config.model.num_classes=N

Hardware: one GPU. For few images, use a smaller net: `--config.model.conv_width=0.25 --config.model.fc_width=0.0625`.
"""

from alexnet_jax.config import Config
from configs import imagenette


def get_config() -> Config:
    """Return the recipe for small data sets; set the name and the number of classes yourself."""
    config = imagenette.get_config()
    config.data.name = "mine"
    config.model.num_classes = 2
    return config
