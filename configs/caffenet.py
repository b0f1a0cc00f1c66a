"""CaffeNet, Caffe's reference net: AlexNet with pooling before normalization and biases of 1.

    python -m alexnet_jax.main --config=configs/caffenet.py --workdir=runs/caffenet

Hardware: one device, or two with --config.mesh.tower=2 (Caffe: one K40, 26.5 seconds for 20 iterations of 256 images).
Expected on ILSVRC-2012 validation with the center view: 42.6 / 19.6 % top-1/top-5 error.
Source: [CAFFE] models/bvlc_reference_caffenet: train_val.prototxt, solver.prototxt, readme.md. `configs/caffe.py` says
how the data differs from Caffe's.
"""

from alexnet_jax.config import Config
from configs import caffe


def get_config() -> Config:
    """Return Caffe's recipe with another net."""
    config = caffe.get_config()
    config.model.variant = "caffenet"
    return config
