"""The two-tower net as the paper prints it: the recipe itself, under the name of its variant.

    python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper

Hardware: one device, or two with --config.mesh.tower=2 (the paper: two GTX 580 of 3 GB, five to six days).
Expected: no published number; the paper's are those of `configs/original.py`, from which its text differs.
Source: [PAPER] sections 3 to 5; every choice stands in `configs/imagenet.py`.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """The recipe as it is."""
    return imagenet.get_config()
