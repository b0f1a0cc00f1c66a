"""Fine-tunes BVLC AlexNet on other classes, here Imagenette's ten: Caffe's recipe for Flickr styles.

    python -m alexnet_jax.convert --source=bvlc_alexnet.caffemodel --format=caffe --workdir=runs/bvlc_alexnet
    python -m alexnet_jax.main --config=configs/finetune.py --workdir=runs/finetuned

`--config.init_from=DIR` starts from another net, whose `model.variant` is then to be given too, and
`--config.data.name=mine --config.model.num_classes=N` takes another set, prepared from an image folder for example.
The classifier is new and learns ten times as fast as the layers below, which are hardly changed;
`--config.optimizer.frozen='("conv1","conv2")'` does not change the named ones at all.
Hardware: one GPU, minutes; with frozen convolutions a CPU does. What came out, and what else was tried:
`docs/transfer.md`.
Source: [CAFFE] models/finetune_flickr_style: solver.prototxt, train_val.prototxt (80,000 images, 100,000 steps of 50).
"""

from alexnet_jax.config import Config
from configs import caffe


def get_config() -> Config:
    """Ten times smaller steps than from scratch, and again after every fifth of the training."""
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
