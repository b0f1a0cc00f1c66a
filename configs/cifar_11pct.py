"""The author's four-layer net for CIFAR-10 with normalization: the paper's "11 %" (section 3.3).

    python -m alexnet_jax.main --config=configs/cifar_11pct.py --workdir=runs/cifar_11pct

Data and hardware: as for configs/cifar_13pct.py.
Expected: 11 % test error with ten views.
Source: cuda-convnet, `example-layers/layers-conv-local-11pct.cfg` and `layer-params-conv-local-11pct.cfg`. Its notes
give the length: 350 epochs on four fifths of the images, 150 on all, then ten at a tenth and ten at a hundredth of the
learning rate. Here all images are trained on from the start.
"""

from alexnet_jax.config import Config
from configs import cifar_13pct


def get_config() -> Config:
    """Return the same recipe with another net, whose classifier has another weight decay (model/cifar.py)."""
    config = cifar_13pct.get_config()
    config.model.variant = "cifar_11pct"
    return config
