"""The paper's one-GPU net: half the kernels except in conv5, and all fully connected units.

    python -m alexnet_jax.main --config=configs/one_tower.py --workdir=runs/one_tower

Hardware: one device.
Expected on LSVRC-2010's test set with ten views: 39.17 / 18.23 % top-1/top-5 error; two towers have 37.47 / 17.00 (the
paper's 1.7 and 1.2 %, section 3.2). Nothing is published for ILSVRC-2012.
Source: [CODE] layers-145-half.cfg and the notes in layer-params-145-half.cfg. The schedule is that of
`configs/original.py`; the published run's was set by hand.
"""

from alexnet_jax.config import Config
from configs import original


def get_config() -> Config:
    """Return the author's recipe with another net."""
    config = original.get_config()
    config.model.variant = "one_tower"
    return config
