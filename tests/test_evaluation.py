"""Evaluation counts every image once and averages probabilities, whatever the batch size and devices."""

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_pieces import pieces

from alexnet_jax.cli import parse_weights
from alexnet_jax.config import Config, num_views
from alexnet_jax.data.augmentation import center_view, several_views
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.loss import cross_entropy, top_k_error
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.predict_step import create_predict_step
from alexnet_jax.state import create_model, create_train_state


@pytest.fixture
def config(tiny_config: Config) -> Config:
    tiny_config.mesh.data = 1
    return tiny_config


def fresh_params(config: Config):
    """Return initial parameters on the host; each evaluation puts them where it runs."""
    return jax.device_get(create_train_state(config, *pieces(config)).params)


def evaluate_on(config: Config, params, data: int, tower: int, batch_size: int, views: int = 1) -> dict:
    config = copy.deepcopy(config)
    config.mesh.data, config.mesh.tower, config.eval.batch_size = data, tower, batch_size
    mesh, dataset = create_mesh(config.mesh), open_dataset(config.data)
    predict = functools.partial(
        create_predict_step(config, create_model(config), mesh, views), params, dataset.statistics
    )
    return evaluate([predict], dataset.evaluation, mesh, batch_size, read_threads=1)


def reference(config: Config, params, views: int) -> dict:
    """Evaluate all images at once; NumPy averages the probabilities in float64."""
    dataset, model = open_dataset(config.data), create_model(config)
    count, size = len(dataset.evaluation), dataset.image_size
    images, labels = np.empty((count, size, size, 3), np.uint8), np.empty(count, np.int32)
    dataset.evaluation.read(range(count), images, labels)
    cut = center_view if views == 1 else functools.partial(several_views, flip=views == 10)
    crops = cut(images, dataset.statistics, image_size=config.model.image_size, mean=config.data.mean)
    crops = crops.reshape(count, views, *crops.shape[-3:])
    logits = [np.asarray(model.apply({"params": params}, crops[:, view]), np.float64) for view in range(views)]
    probabilities = np.mean([np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in logits], axis=0)
    order = np.argsort(-probabilities, axis=1)
    return {
        "loss": -np.log(probabilities[np.arange(count), labels]).mean(),
        "top1_error": 100 * np.mean(order[:, 0] != labels),
        "top5_error": 100 * np.mean((order[:, :5] != labels[:, None]).all(axis=1)),
        "num_examples": count,
    }


@pytest.mark.parametrize(("flip", "asked", "made"), [(True, 1, 1), (True, 10, 10), (False, 10, 5)])
def test_evaluation_equals_a_plain_pass_over_all_images(config: Config, flip: bool, asked: int, made: int) -> None:
    config.data.flip = flip
    params = fresh_params(config)
    result = evaluate_on(config, params, data=1, tower=1, batch_size=100, views=asked)
    assert result == pytest.approx(reference(config, params, made), rel=1e-5)
    assert num_views(config, asked) == made
    assert result["num_examples"] == 360


def test_batch_size_and_devices_do_not_matter(config: Config) -> None:
    params = fresh_params(config)
    expected = evaluate_on(config, params, data=1, tower=1, batch_size=360)
    for data, tower, batch_size in ((1, 1, 7), (2, 1, 128), (4, 2, 256), (8, 1, 1000)):
        result = evaluate_on(config, params, data, tower, batch_size)
        assert result == pytest.approx(expected, rel=1e-6), (data, tower, batch_size)


def test_evaluation_stops_when_asked(config: Config) -> None:
    params, mesh, dataset = fresh_params(config), create_mesh(config.mesh), open_dataset(config.data)
    predict = functools.partial(create_predict_step(config, create_model(config), mesh, 1), params, dataset.statistics)
    asked = iter([False, True])
    assert evaluate([predict], dataset.evaluation, mesh, 100, 1, should_stop=lambda: next(asked)) is None


def test_an_ensemble_averages_probabilities(config: Config) -> None:
    mesh, dataset = create_mesh(config.mesh), open_dataset(config.data)
    step = create_predict_step(config, create_model(config), mesh, 1)
    predictors = []
    for seed in (1, 2):
        config.seed = seed
        predictors.append(functools.partial(step, fresh_params(config), dataset.statistics))
    result = evaluate(predictors, dataset.evaluation, mesh, 360, 1)
    images, labels = np.empty((360, 72, 72, 3), np.uint8), np.empty(360, np.int32)
    dataset.evaluation.read(range(360), images, labels)
    probabilities = np.mean([np.exp(predict(images)) for predict in predictors], axis=0)
    assert result["loss"] == pytest.approx(-np.log(probabilities[np.arange(360), labels]).mean(), rel=1e-5)

    weighted = evaluate(predictors, dataset.evaluation, mesh, 360, 1, weights=(3.0, 1.0))
    probabilities = np.average([np.exp(predict(images)) for predict in predictors], axis=0, weights=(0.75, 0.25))
    assert weighted["loss"] == pytest.approx(-np.log(probabilities[np.arange(360), labels]).mean(), rel=1e-5)
    assert weighted["top1_error"] == pytest.approx(100 * np.mean(probabilities.argmax(axis=1) != labels), abs=1e-4)

    alone = evaluate(predictors, dataset.evaluation, mesh, 360, 1, weights=(0.0, 2.0))
    assert alone == pytest.approx(evaluate(predictors[1:], dataset.evaluation, mesh, 360, 1), rel=1e-6)


def test_weights_are_checked() -> None:
    assert parse_weights("0.5,0.3,0", 3) == (0.5, 0.3, 0.0)
    for text, num_nets in (("1,2", 3), ("1,-1", 2), ("0,0", 2), ("a,1", 2), ("nan,1", 2), ("inf,1", 2), ("", 1)):
        with pytest.raises(UserError, match=rf"--weights={text} is not allowed with {num_nets} workdir"):
            parse_weights(text, num_nets)


def test_top_k_error_counts_ties_in_part() -> None:
    logits = jnp.array([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0], [0.0] * 6, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [math.nan] * 6])
    labels = jnp.array([1, 3, 0, 0])
    np.testing.assert_allclose(top_k_error(logits, labels, 1), [1, 5 / 6, 1 / 2, 1], rtol=1e-6)
    np.testing.assert_allclose(top_k_error(logits, labels, 5), [0, 1 / 6, 0, 1], atol=1e-6)


def test_cross_entropy_is_the_negative_log_likelihood() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    losses = cross_entropy(jnp.log(jnp.asarray(probabilities)), jnp.array([0, 1]))
    np.testing.assert_allclose(losses, -np.log([0.5, 0.1]), rtol=1e-6)
