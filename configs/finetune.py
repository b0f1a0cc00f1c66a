"""Fine-tune BVLC AlexNet on other classes, here Imagenette's ten, with Caffe's recipe for Flickr styles.

    python -m alexnet_jax.convert --source=bvlc_alexnet.caffemodel --workdir=runs/bvlc_alexnet
    python -m alexnet_jax.main --config=configs/finetune.py --workdir=runs/finetuned

To start from another net, set `init_from` to its workdir, and `model.variant`. For other data, for example a prepared
image folder, set `data.name` and `model.num_classes`. The classifier is new and learns ten times as fast as the layers
below, which hardly change; `--config.optimizer.frozen='("conv1","conv2")'` keeps the named layers unchanged.
Hardware: one GPU, minutes; with frozen convolutions a CPU is enough.
Results: `docs/transfer.md`.
Source: [CAFFE] models/finetune_flickr_style: solver.prototxt, train_val.prototxt (80,000 images, 100,000 steps of 50).
"""

from alexnet_jax.config import Config
from configs import caffe


def get_config() -> Config:
    """Return a tenth of the learning rate from scratch, and a tenth again after every fifth of the training."""
    config = caffe.get_config()
    config.init_from = "runs/bvlc_alexnet"
    config.model.num_classes = 10
    config.batch_size = 50
    config.num_epochs = 100_000 * 50 / 80_000  # 62.5

    config.data.name = "imagenette"

    config.optimizer.learning_rate = 0.001
    config.optimizer.last_layer_rate = 10.0
    config.optimizer.drops = (0.2, 0.4, 0.6, 0.8)
    config.optimizer.bias_drops = config.optimizer.drops
    return config
