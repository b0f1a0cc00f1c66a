"""The learning rates of figure 1: which reduces the training error on CIFAR-10 fastest, with ReLU and with tanh?

    python -m alexnet_jax.sweep --config=configs/cifar_13pct.py --sweep=configs/sweeps/figure_1.py \
        --workdir=runs/figure_1 --parallel=2 --config.num_epochs=6 --config.data.crop=center \
        --config.data.flip=False --config.optimizer.weight_decay=0 --config.optimizer.drops='()'

The other overrides are those of the trainings `figure_1_relu` and `figure_1_tanh` (`python -m experiments relu`).
"""

from alexnet_jax.sweep.space import Overrides, grid


def get_sweep() -> list[Overrides]:
    """Return eleven runs; without drops and noise, each is the beginning of a longer run."""
    learning_rates = (0.0005, 0.001, 0.002, 0.004, 0.008)
    return [
        *grid({"model.activation": ("relu",), "optimizer.learning_rate": learning_rates}),
        *grid({"model.activation": ("tanh",), "optimizer.learning_rate": (*learning_rates, 0.016)}),
    ]
