"""The paper's widths in one tower without groups: what most tutorials draw; nobody published it.

    python -m alexnet_jax.main --config=configs/merged.py --workdir=runs/merged

Hardware: one device. It takes 57 % more multiply-adds than the two-tower net.
Expected: no published number. The standard deviation of 0.01 in conv3 to conv5 starts with a weak signal, as in
`configs/paper.py`; see `docs/variants.md`.
Source: [PAPER] section 3.5 with the two halves of every layer merged.
"""

from alexnet_jax.config import Config
from configs import imagenet


def get_config() -> Config:
    """Return the recipe with another net."""
    config = imagenet.get_config()
    config.model.variant = "merged"
    return config
