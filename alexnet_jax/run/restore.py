"""A trained net, restored from its workdir alone."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from alexnet_jax import runtime
from alexnet_jax.checkpoint import Checkpoints, Step
from alexnet_jax.config import Config, MeshConfig, num_views
from alexnet_jax.data.dataset_info import PREPROCESSING, DatasetInfo, load_dataset_info
from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.parallel.mesh import create_mesh, devices
from alexnet_jax.predict_step import Predictor, create_predict_step
from alexnet_jax.run import workdir
from alexnet_jax.state import abstract_params, create_model

if TYPE_CHECKING:
    from alexnet_jax.data.preprocessing import Preparation


@dataclasses.dataclass(frozen=True)
class RestoredNet:
    """The parameters of one checkpoint, on this machine's devices, with the config and what is known of the data."""

    folder: Path
    config: Config
    dataset_info: DatasetInfo
    mesh: Mesh
    model: AlexNet
    step: int
    params: Any

    @property
    def epoch(self) -> float:
        """Return how many epochs the net was trained for."""
        return self.step * self.config.batch_size / self.dataset_info.num_examples

    def predictor(self, views: int) -> Predictor:
        """Return the program images [B, S, S, 3] -> log-probabilities [B, classes], averaged over the views.

        `views` is 1 or 10, of which five are left if the net was trained without mirror images.
        """
        return self._run(create_predict_step(self.config, self.model, self.mesh, views))

    def feature_extractor(self, layers: Sequence[str]) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Return the program images [B, S, S, 3] -> the outputs of layers, by name: [B, H, W, C] or [B, units]."""
        from alexnet_jax.feature_step import create_feature_step  # late, here and below: training needs none of these

        return self._run(create_feature_step(self.config, self.model, self.mesh, layers))

    def gradient(self, of: str, wrt: str) -> Callable[[int, jax.Array], jax.Array]:
        """Return the program (unit, images [B, S, S, 3]) -> the gradient of a unit of `of` with respect to `wrt`.

        The unit is a place in the flat output of the layer `of`; `wrt` is a layer below it, or "image".
        """
        from alexnet_jax.feature_step import create_gradient_step

        step = create_gradient_step(self.config, self.model, self.mesh, of, wrt)
        return lambda unit, images: step(self.params, self.dataset_info.statistics, unit, images)

    def preparation(self, views: int = 1) -> "Preparation":
        """Return how pictures are prepared for this many views: cut to the view, or to the square that has them all."""
        from alexnet_jax.data.preprocessing import Preparation

        info, size = self.dataset_info, self.config.model.image_size
        stored = info.statistics.image_size
        return Preparation(info.preprocessing, stored, size if views == 1 else stored)

    def _run(self, step: Callable) -> Callable:
        return functools.partial(step, self.params, self.dataset_info.statistics)


def restore(
    folder: Path,
    step: Step = "latest",
    tower: int = 1,
    precision: str | None = None,
    preprocessing: str | None = None,
) -> RestoredNet:
    """Restore a checkpoint onto all devices of this machine, whatever mesh it was trained on.

    Args:
      folder: the workdir of a training.
      step: which checkpoint.
      tower: how many devices the two towers are spread over.
      precision: of the computation; None is that of the training.
      preprocessing: whose way of preparing pictures, one of `dataset_info.PREPROCESSING`; None is the net's own.

    Raises:
      UserError: the folder holds no run or no such checkpoint, the net can't be spread over the devices like that, or
        precision or preprocessing is none of the choices.
    """
    for name, value, choices in (
        ("precision", precision, ("float32", "bfloat16")),
        ("preprocessing", preprocessing, PREPROCESSING),
    ):
        if value is not None and value not in choices:
            raise UserError(f"{name}={value!r} is not allowed; it must be one of {', '.join(choices)}.")
    config = workdir.read_config(folder)
    config.precision = precision or config.precision
    model = create_model(config)
    if model.net.towers % tower:
        raise UserError(
            f"tower={tower} is not allowed for {folder}: {config.model.variant!r} is a net with one tower; use tower=1."
        )
    config.mesh = MeshConfig(data=max(1, len(devices()) // tower), tower=tower)
    dataset_info = load_dataset_info(folder)
    dataset_info = dataclasses.replace(dataset_info, preprocessing=preprocessing or dataset_info.preprocessing)
    runtime.use_compilation_cache()
    mesh = create_mesh(config.mesh)
    params, step = restore_params(folder, config, model, mesh, step)
    return RestoredNet(folder, config, dataset_info, mesh, model, step, params)


def restore_params(folder: Path, config: Config, model: AlexNet, mesh: Mesh, step: Step) -> tuple[Any, int]:
    """Return the parameters of a checkpoint, laid out as `config` says, and its step; UserError if there is none."""
    abstract = abstract_params(config, model, mesh)
    with Checkpoints(workdir.checkpoints_in(folder), keep_last=1, keep_best=1) as checkpoints:
        restored = checkpoints.restore(step, abstract, only="params")
    return restored.state, restored.step


def check_same_data(net: RestoredNet, info: DatasetInfo, name: str, *, same_classes: bool = True) -> None:
    """Raise UserError unless the data that messages call `name` has the net's image size and, in order, its classes."""
    if same_classes:
        check_same_classes(net, info, name)
    own = net.dataset_info
    if own.statistics.image_size != info.statistics.image_size:
        raise UserError(
            f"{net.folder} was trained on images of {own.statistics.image_size} pixels a side, but those of {name} "
            f"have {info.statistics.image_size}; prepare both with the same --size."
        )


def check_same_classes(net: RestoredNet, info: DatasetInfo, name: str) -> None:
    """Raise UserError unless the data that messages call `name` has the net's classes in the same order."""
    if net.dataset_info.label_names != info.label_names:
        raise UserError(
            f"{net.folder} was trained on the classes of {net.dataset_info.name!r}, which are not those of {name}; use "
            "data and nets with the same classes in the same order."
        )


def check_same_pictures(net: RestoredNet, first: RestoredNet, views: int) -> None:
    """Raise UserError if two nets, which are to see the same pictures, want them prepared in different ways."""
    if net.preparation(views) != first.preparation(views):
        own, others = (f"({', '.join(map(str, each.preparation(views)))})" for each in (net, first))
        raise UserError(
            f"{net.folder} and {first.folder} see pictures in different ways, {own} and {others} (whose way, and the "
            "pixels that are stored and seen); evaluate them one by one, or choose one way with --preprocessing."
        )


def report_missing_views(nets: Sequence[RestoredNet], views: int) -> None:
    """Print on stderr which nets have fewer than `views` views, because they were trained without mirror images."""
    for net in nets:
        if (found := num_views(net.config, views)) < views and jax.process_index() == 0:
            reason = "was trained without mirror images (data.flip=False)"
            print(f"{net.folder} {reason}: {found} views of each image, not {views}.", file=sys.stderr, flush=True)
