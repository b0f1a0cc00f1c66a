"""Two towers that meet only in the classifier.

    python -m alexnet_jax.main --config=configs/no_communication.py --workdir=runs/no_communication

Hardware: one device, or two with --config.mesh.tower=2.
Expected on ILSVRC-2012 validation with ten views: 41.83 / 19.33 % top-1/top-5 error, 1.2 / 1.1 points more than with
communication.
Source: [CODE] layers-150.cfg and the notes in layer-params-150.cfg: the schedule of #145 to within a few epochs.
"""

from alexnet_jax.config import Config
from configs import original_145


def get_config() -> Config:
    """Return the recipe of #145 with another net."""
    config = original_145.get_config()
    config.model.variant = "no_communication"
    return config
