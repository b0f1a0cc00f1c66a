"""The two-tower net as the paper prints it: `configs/imagenet.py` under the name of its variant.

    python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper

Hardware: one device, or two with --config.mesh.tower=2 (the paper: two GTX 580 of 3 GB, five to six days).
Expected: no published number; the paper's numbers are those of `configs/original.py`, which differs from its text.
Source: [PAPER] sections 3 to 5; `configs/imagenet.py` cites the section of each choice.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return the recipe unchanged."""
    return imagenet.get_config()
