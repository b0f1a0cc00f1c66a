"""Fine-tuning: what is taken from the other net, what is new, what stays, and that stopping changes nothing."""

import dataclasses
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_train import assert_same_bits, final_state
from training_pieces import pieces

from alexnet_jax import validation
from alexnet_jax.cluster.agreement import StopSignals
from alexnet_jax.config import Config
from alexnet_jax.data.dataset_info import load_dataset_info
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import PreemptedError, UserError
from alexnet_jax.prepare.folders import image_folder
from alexnet_jax.prepare.units import Recipe
from alexnet_jax.prepare.workflow import prepare_dataset
from alexnet_jax.run import startup
from alexnet_jax.run.fine_tuning import create_initial_state, with_statistics
from alexnet_jax.run.restore import restore
from alexnet_jax.state import create_train_state
from alexnet_jax.train import train_and_evaluate
from configs import finetune


@pytest.fixture(scope="module")
def odd_and_even(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of "parity": 60 digits to train on and 20 to validate, told odd from even; gray made red."""
    root = tmp_path_factory.mktemp("parity")
    digits = open_dataset(dataclasses.replace(finetune.get_config().data, name="digits", dir=str(digits_dir)))
    for split, source, count in (("train", digits.train, 60), ("val", digits.evaluation, 20)):
        images, labels = np.zeros((count, 72, 72, 3), np.uint8), np.zeros(count, np.int32)
        source.read(range(count), images, labels)
        images[..., 1:] //= 2
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = root / "images" / split / ("odd" if label % 2 else "even") / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    raw = image_folder(root / "images", name="parity", validation_fraction=0.1)
    prepare_dataset(
        raw,
        Recipe(size=72, quality=95, seed=0, keep_originals=False, name_feature="file_name"),
        root / "data",
        max_broken=0,
        num_threads=1,
    )
    return root / "data"


@pytest.fixture
def config(tiny_config: Config, trained_folder: Path, odd_and_even: Path) -> Config:
    """Six steps from the net that tells ten digits; the convolutions behind the first are frozen."""
    tiny_config.init_from = str(trained_folder)
    tiny_config.model.num_classes = 2
    tiny_config.data.name, tiny_config.data.dir = "parity", str(odd_and_even)
    tiny_config.batch_size = 20
    tiny_config.num_epochs = 2.0
    tiny_config.optimizer.frozen = ("conv2", "conv3", "conv4", "conv5")
    validation.validate(tiny_config)
    return tiny_config


def test_the_start_is_the_other_net_with_a_new_classifier(config: Config, trained_folder: Path, capsys) -> None:
    source = restore(trained_folder)
    params = create_initial_state(config, *pieces(config), ("even", "odd")).params
    for name, values in params.items():
        if name != "fc8":
            jax.tree.map(np.testing.assert_array_equal, values, source.params[name])
    fresh = create_train_state(config, *pieces(config)).params["fc8"]
    jax.tree.map(np.testing.assert_array_equal, params["fc8"], fresh)
    assert params["fc8"]["kernel"].shape == (source.params["fc8"]["kernel"].shape[0], 2)
    assert f"all layers but fc8, which is new: 2 classes, from step 24 of {trained_folder}" in capsys.readouterr().out


def test_views_of_another_size_are_named(config: Config, trained_folder: Path, capsys) -> None:
    """Where all shapes fit; where they don't, the sentence that refuses the source names the size too."""
    config.model.image_size = 66
    create_initial_state(config, *pieces(config), ("even", "odd"))
    assert "views:    66 pixels, but the source has learned from 64; its accuracy needs" in capsys.readouterr().out
    config.model.variant, config.model.image_size = "caffe", 96
    with pytest.raises(
        UserError, match=r"variant='caffe' \(source: 'paper'\), config.model.image_size=96 \(source: 64\)"
    ):
        create_initial_state(config, *pieces(config), ("even", "odd"))


@pytest.mark.parametrize("which", ["18", "best"])
def test_the_start_may_be_another_checkpoint(which: str, config: Config, trained_folder: Path, capsys) -> None:
    config.init_step = which
    params = create_initial_state(config, *pieces(config), ("even", "odd")).params
    source = restore(trained_folder, int(which) if which.isdecimal() else which)
    np.testing.assert_array_equal(params["conv1"]["kernel"], source.params["conv1"]["kernel"])
    assert f"from step {source.step} of {trained_folder}" in capsys.readouterr().out


def test_the_classifier_is_kept_where_the_classes_are_the_same(tiny_config: Config, trained_folder: Path) -> None:
    tiny_config.init_from = str(trained_folder)
    state = create_initial_state(tiny_config, *pieces(tiny_config), tuple("0123456789"))
    jax.tree.map(np.testing.assert_array_equal, state.params, restore(trained_folder).params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.opt_state))


def test_a_run_keeps_frozen_layers_and_the_known_mean_and_goes_on_without_its_source(
    config: Config, trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once through; and stopped after two of six steps, the source deleted, gone on: the same to the bit."""
    source = restore(trained_folder)
    train_and_evaluate(config, tmp_path / "whole")
    tuned = restore(tmp_path / "whole")
    for name, values in tuned.params.items():
        same = [np.array_equal(values[kind], source.params[name][kind]) for kind in values if name != "fc8"]
        assert all(same) if name in config.optimizer.frozen else not any(same), name
    mean = load_dataset_info(tmp_path / "whole").statistics.mean_image
    np.testing.assert_array_equal(mean, source.dataset_info.statistics.mean_image)
    assert not np.array_equal(mean, open_dataset(config.data).statistics.mean_image)

    config.init_from = str(shutil.copytree(trained_folder, tmp_path / "source"))
    monkeypatch.setattr(startup, "StopSignals", _StoppedInStep2)
    with pytest.raises(PreemptedError):
        train_and_evaluate(config, tmp_path / "stopped")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "source")
    train_and_evaluate(config, tmp_path / "stopped")
    assert_same_bits(final_state(config, tmp_path / "stopped"), final_state(config, tmp_path / "whole"))


def test_of_images_of_another_size_only_the_mean_color_is_taken(config: Config, trained_folder: Path, tmp_path) -> None:
    dataset = open_dataset(config.data)
    small = dataclasses.replace(
        dataset, statistics=dataset.statistics._replace(mean_image=np.zeros((70, 70, 3), np.float32))
    )
    known = load_dataset_info(trained_folder).statistics.mean_image
    for folder in (tmp_path, trained_folder):  # at the start, and when it resumes
        found = with_statistics(small, config, folder).statistics.mean_image
        np.testing.assert_allclose(found, np.broadcast_to(known.mean(axis=(0, 1)), (70, 70, 3)), rtol=1e-5)


# What is set to another value than in the source, and what the sentence must say.
OTHER_NETS = {
    "width": ("model.conv_width", 0.1667, r"its conv1 is \(11, 11, 3, 8\), yours \(11, 11, 3, 16\); .*conv_width"),
    "variant": (
        "model.variant",
        "merged",
        r"its conv2 is .*, yours .*; config.model.variant='merged' \(source: 'pap",
    ),
    "layers of the same shapes": (
        "model.variant",
        "original",
        r"net: config.model.variant='original' \(source: 'paper'",
    ),
    "nonlinearity": ("model.activation", "tanh", r"config.model.activation='tanh' \(source: 'relu'\)"),
    "mean": ("data.mean", "channel", r"config.data.mean='channel' \(source: 'image'\)"),
    "image size": ("model.image_size", 96, r"its fc6 is .*, yours .*; config.model.image_size=96 \(source: 64\)"),
}


@pytest.mark.parametrize("difference", OTHER_NETS)
def test_another_net_is_refused_in_one_sentence(difference: str, config: Config, tmp_path: Path) -> None:
    from alexnet_jax.config import set_field

    name, value, sentence = OTHER_NETS[difference]
    set_field(config, name, value)
    with pytest.raises(UserError, match=sentence) as refused:
        with_statistics(open_dataset(config.data), config, tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nothing", "nothing does not hold a trained net: .*config.json is missing"),
        (300 * "x", r"x can't be read \(File name too long\)"),
    ],
)
def test_a_source_without_a_net_is_refused_before_anything_is_written(
    source: str, sentence: str, config: Config, tmp_path: Path
) -> None:
    config.init_from = str(tmp_path / source)
    with pytest.raises(UserError, match=f"config.init_from=.*{sentence}"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_caffes() -> None:
    """models/finetune_flickr_style: base_lr 0.001, stepsize 20,000 of 100,000, lr_mult 10 and 20 for the classifier."""
    config = finetune.get_config()
    validation.validate(config)
    assert config.num_epochs * 80_000 / config.batch_size == 100_000
    assert [drop * 100_000 for drop in config.optimizer.drops] == [20_000, 40_000, 60_000, 80_000]
    rates = config.optimizer.learning_rate, config.optimizer.last_layer_rate, config.optimizer.bias_rate
    assert rates == (0.001, 10.0, 2.0)


class _StoppedInStep2(StopSignals):
    """SIGTERM comes while the second step runs."""

    polls = 0

    def poll(self) -> bool:
        self.polls += 1
        if self.polls == 2:
            signal.raise_signal(signal.SIGTERM)
            while not self.number:
                time.sleep(0.001)
        return super().poll()
