"""The experiments: their numbers are the published ones, and their commands give the configs they describe."""

import json
import math
import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from alexnet_jax import validation
from alexnet_jax.config import differences, to_dict
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh, shard_batch
from alexnet_jax.run.workdir import MAY_CHANGE, read_config
from alexnet_jax.state import create_model, create_train_state
from alexnet_jax.train_step import create_train_step
from docs.generate_reproduction import DOCUMENT, with_new_tables
from experiments import costs, figure_1, logs
from experiments.__main__ import describe
from experiments.paper import EXPERIMENTS, MACHINES, REPRODUCED, TRAININGS
from experiments.registry import Training

BY_NAME = {training.name: training for training in TRAININGS}

# From the paper (tables 1 and 2; sections 3.2, 3.3, 3.4, 4.1, 6, 7), independently of experiments/paper.py.
CLAIMS = {
    "table_1": "37.5 / 17.0",
    "ten_views": "+1.5 / +1.3",  # 39.0 / 18.3 with one patch
    "two_gpus": "+1.7 / +1.2",
    "table_2_one": "40.7 / 18.2",
    "table_2_five": "38.1 / 16.4",
    "table_2_star": "39.0 / 16.6",
    "table_2_seven": "36.7 / 15.4",
    "normalization": "+1.4 / +1.2",
    "pooling": "+0.4 / +0.3",
    "communication": "+1.2 / +1.1",  # the author's notes
    "crops": "no number",
    "color_noise": "over +1",
    "dropout": "no number",
    "without_conv3": "about +2",
    "without_conv4": "about +2",
    "relu": "6 times",
    "cifar_normalization": "+2",  # 13 % without, 11 % with
    "cifar_normalization_30": "-",
    "figure_3_bvlc": "no number",
    "figure_3_imagenette": "no number",
    "figure_4_imagenette": "no number",
    "imagenette_views": "-",
    "imagenette_ensemble": "-",
    "imagenette_normalization": "-",
    "imagenette_pooling": "-",
}

# From the author's notes at the end of layer-params-*.cfg: (training, views) -> fractions, top-1 and top-5.
NOTES = {
    ("cnn_2010", 10): (0.374727, 0.169987),
    ("cnn_2010", 1): (0.390247, 0.182953),
    ("one_tower_2010", 10): (0.391680, 0.182287),
    ("cnn", 10): (0.406640, 0.182100),
    ("cnn_automatic", 1): (0.4234, 0.1958),
    ("cnn_automatic", 10): (0.4053, 0.1805),
    ("cnn_star", 10): (0.389900, 0.166220),
    ("no_normalization", 10): (0.420340, 0.193620),
    ("non_overlapping_pooling", 10): (0.410580, 0.185100),
    ("no_communication", 10): (0.418280, 0.193300),
    ("cifar_13pct", 10): (0.13, None),
    ("cifar_11pct", 10): (0.11, None),
}


def test_claims_are_those_of_the_paper() -> None:
    assert {experiment.name: experiment.published for experiment in EXPERIMENTS} == CLAIMS


def test_published_errors_are_those_of_the_notes() -> None:
    found = {
        (training.name, errors.views): (errors.top1, errors.top5)
        for training in TRAININGS
        for errors in training.published
    }
    assert found.keys() == NOTES.keys()
    for key, fractions in NOTES.items():
        expected = 100 * np.array(fractions, float)  # None, where the source has no top-5 error, is NaN
        np.testing.assert_allclose(np.array(found[key], float), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("claim", "worse", "better"),
    [
        ("table_1", ("cnn_2010", 10), None),
        ("ten_views", ("cnn_2010", 1), ("cnn_2010", 10)),
        ("two_gpus", ("one_tower_2010", 10), ("cnn_2010", 10)),
        ("table_2_one", ("cnn", 10), None),
        ("table_2_star", ("cnn_star", 10), None),
        ("normalization", ("no_normalization", 10), ("cnn", 10)),
        ("pooling", ("non_overlapping_pooling", 10), ("cnn", 10)),
        ("communication", ("no_communication", 10), ("cnn", 10)),
    ],
)
def test_the_notes_are_what_the_paper_rounds(claim: str, worse: tuple, better: tuple | None) -> None:
    """The paper's differences are of rounded numbers, so up to 0.1 off."""
    exact = 100 * (np.array(NOTES[worse]) - (np.array(NOTES[better]) if better else 0))
    np.testing.assert_allclose(
        [float(number) for number in CLAIMS[claim].split(" / ")], exact, atol=0.1 if better else 0.0501
    )


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_configs_are_valid_and_the_commands_give_them(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(training.seeds):
        config = training.build(seed)
        validation.validate(config)
        assert config.seed == seed
        program, *arguments = shlex.split(training.commands(seed)[0])[2:]
        assert program == "alexnet_jax.main"
        monkeypatch.setattr(sys, "argv", ["main", *arguments])  # where ml_collections looks for overrides
        values = flags.FlagValues()
        parsed = config_flags.DEFINE_config_file("config", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        values(sys.argv)
        assert to_dict(parsed.value) == to_dict(config)
        assert values["workdir"].value == training.workdir(seed)


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_each_rule_moves_every_kernel_downhill(training: Training) -> None:
    """Check the first step's learning rates; test_each_net_takes_a_step_at_full_size has whole nets."""
    config = training.build()
    layers = [layer.name for layer in build_net(config.model).layers if hasattr(layer, "decay")]
    ones = {name: {"kernel": jnp.ones(2), "bias": jnp.ones(2)} for name in layers}
    optimizer = create_optimizer(config, create_model(config).net, 100)
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
    assert all(float(jnp.max(updates[name]["kernel"])) < 0 for name in layers)


def test_names_are_unique_and_refer_to_trainings() -> None:
    assert len(BY_NAME) == len(TRAININGS)
    for experiment in EXPERIMENTS:
        trained = {BY_NAME[name].workdir(seed) for name in experiment.trainings for seed in range(BY_NAME[name].seeds)}
        for command in experiment.evaluate:
            (folders,) = re.findall(r"--workdir=(\S+)", command)
            assert set(folders.split(",")) <= trained | {"runs/bvlc_alexnet"}, experiment.name
    for training in TRAININGS:
        for seed in range(training.seeds):
            if source := training.build(seed).init_from:
                _, name, number = source.split("/")
                assert int(number) < BY_NAME[name].seeds


def test_the_document_agrees_with_data_and_logs() -> None:
    text = DOCUMENT.read_text()
    assert with_new_tables(text) == text, "run python -m docs.generate_reproduction"


def test_every_log_has_its_training_and_config() -> None:
    kept = {path.parent.parent.name for path in logs.LOGS.glob("*/*/metrics.jsonl")}
    assert kept == REPRODUCED.keys()
    for name in kept:
        for run in logs.runs_of(logs.LOGS, name):
            changed = differences(read_config(run), BY_NAME[name].build(int(run.name)))
            assert [field for field in changed if not field.startswith(MAY_CHANGE)] == []
    measured = {path.parent.name for path in logs.LOGS.glob("*/*.json*")}
    assert measured <= {experiment.name for experiment in EXPERIMENTS if experiment.measure(logs.LOGS)}


def write_log(folder: Path, training: str, seed: int, lines: list[dict]) -> None:
    run = folder / training / str(seed)
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def evaluation(step: int, views: int, top1: float, top5: float) -> dict:
    return {"step": step, "epoch": step, "split": "validation", "views": views, "top1_error": top1, "top5_error": top5}


def test_the_last_evaluation_of_each_seed_counts(tmp_path: Path) -> None:
    for seed, last in enumerate((40.0, 42.0, 44.0)):
        repeated = [evaluation(2, 1, 95.0, 70.0), evaluation(2, 1, last, 20.0)]  # with another precision, say
        lines = [*repeated, evaluation(1, 1, 90.0, 60.0), evaluation(2, 10, last - 2 - seed, 19.0)]
        write_log(tmp_path, "a", seed, lines)
    write_log(tmp_path, "b", 0, [evaluation(3, 1, 45.5, 21.0)])
    assert logs.error_of("a", 1)(tmp_path) == "42.00 ± 2.00 / 20.00 ± 0.00 (n = 3)"
    assert logs.error_of("b", 1)(tmp_path) == "45.50 / 21.00"
    assert logs.error_of("b", 10)(tmp_path) is None
    assert logs.difference("a", "b", 1)(tmp_path) == "+3.50 / +1.00 (n = 3, 1)"
    assert logs.difference("a", "c", 1)(tmp_path) is None
    assert logs.gain_of_views("a")(tmp_path) == "3.00 ± 1.00 / 1.00 ± 0.00 (n = 3)"
    assert logs.ensemble_error("five")(tmp_path) is None
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / logs.ENSEMBLE).write_text(json.dumps(evaluation(3, 10, 38.1, 16.4)))
    assert logs.ensemble_error("five")(tmp_path) == "38.10 / 16.40"
    (tmp_path / "five" / logs.REPORT).write_text(json.dumps({"filters": {"color_of_all_energy": [0.789, 0.0912]}}))
    assert logs.colors_of_towers("five")(tmp_path) == "color 0.79 and 0.09"
    assert logs.colors_of_towers("a")(tmp_path) is None
    for seed in (0, 1):
        report = {
            "filters": {"color_of_all_energy": [0.789, 0.0912 + seed]},
            "neighbors": {"share_of_same_class": 1 - seed / 5},
        }
        (tmp_path / "a" / str(seed) / logs.REPORT).write_text(json.dumps(report))
    assert logs.colors_of_towers("a")(tmp_path) == "color 0.79 and 0.09; color 0.79 and 1.09"
    assert logs.neighbors_of_one_class("a")(tmp_path) == "100 %; 80 %"


def training_lines(errors: list[tuple[float, float]]) -> list[dict]:
    return [{"step": i, "epoch": epoch, "split": "train", "top1_error": e} for i, (epoch, e) in enumerate(errors)]


def test_epochs_to_an_error_are_counted_on_the_means_of_epochs(tmp_path: Path) -> None:
    fast = training_lines([(0.5, 80.0), (1.0, 20.0), (1.5, 24.0), (2.0, 16.0), (2.5, 1.0), (3.0, 5.0), (3.01, 0.0)])
    errors = logs.training_errors([*fast, evaluation(1, 10, 99.0, 50.0) | {"split": "train"}])
    # The first epoch's mean counts, however good its last batch was; the step past the last epoch does not.
    assert errors == [(1, 50.0), (2, 20.0), (3, 3.0)]
    assert logs.epochs_to(errors, 25.0) == pytest.approx(1 + 25 / 30)
    assert logs.epochs_to(errors, 60.0) == 1.0
    assert logs.epochs_to(errors, 0.5) == math.inf
    assert logs.epochs_to([], 25.0) == math.inf

    with pytest.raises(UserError, match="has no log yet; run figure_1_relu"):
        figure_1.figure(tmp_path)
    write_log(tmp_path, "figure_1_relu", 0, fast)
    slow = training_lines([(float(epoch), 100.0 - 5.0 * epoch) for epoch in range(1, 20)])
    write_log(tmp_path, "figure_1_tanh", 0, slow)
    measure = logs.speed_up("figure_1_relu", "figure_1_tanh", 25.0)
    assert measure(tmp_path) == "8.2 (1.83 and 15 epochs to 25 %)"
    assert "not reached" in str(logs.speed_up("figure_1_relu", "figure_1_tanh", 4.0)(tmp_path))
    assert figure_1.figure(tmp_path) == figure_1.figure(tmp_path)


def test_costs_follow_from_images_and_speed() -> None:
    """91 epochs of ILSVRC-2012 at the paper's speed take five and a half to six days per run."""
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `cnn` | 5 |"))
    hours = float(row.split("|")[4])
    assert hours == pytest.approx(5 * 91 * 1_281_167 / MACHINES[0].images_per_second / 3600, rel=0.01)
    assert 5 < hours / 5 / 24 < 6.1


def test_every_training_has_a_cost() -> None:
    for training in TRAININGS:
        on_imagenet, small = costs.hours_on_imagenet(training), costs.hours_of_small(training)
        assert bool(on_imagenet) != bool(small), training.name


def test_costs_of_small_sets_follow_from_the_logs_of_the_same_net(tmp_path: Path) -> None:
    """Imagenette: 40 epochs of 9,469 images, three seeds. The log of a tanh net does not count for ReLU."""
    for seed, speed in enumerate((400.0, 500.0, 900.0)):
        first, later = {"step": 1, "images_per_second": None}, {"step": 2, "images_per_second": speed}
        write_log(tmp_path, "imagenette", seed, [first, later, evaluation(2, 1, 50.0, 20.0)])
    write_log(tmp_path, "figure_1_tanh", 0, [{"step": 1, "images_per_second": 300.0}])
    hours = costs.hours_of_small(BY_NAME["imagenette"], tmp_path)
    assert hours == {REPRODUCED["imagenette"].hardware: pytest.approx(3 * 40 * 9_469 / 500 / 3600)}
    assert costs.hours_of_small(BY_NAME["figure_1_relu"], tmp_path) == {}
    assert costs.hours_of_small(BY_NAME["cnn"], tmp_path) == {}


def test_an_experiment_is_described_by_its_name() -> None:
    text = describe("normalization")
    assert "--config.model.normalization=none" in text
    assert text.count("alexnet_jax.main") == 5 + 1
    assert "Ours: not run" in text
    assert "# hours: 704.0 (2 x GTX 580), " in text
    assert " (1 AMD EPYC core)" in describe("relu")
    beginning = "On Imagenette: ten views of each image against one. (small version of"
    assert describe("imagenette_views").startswith(beginning)
    with pytest.raises(UserError, match="did you mean 'normalization'"):
        describe("normalisation")


def distinct_nets() -> list[Training]:
    """Return one training per net that differs in more than its number of classes: the one with the most classes."""
    found = {}
    for training in sorted(TRAININGS, key=lambda training: -training.build().model.num_classes):
        model = training.build().model
        found.setdefault((build_net(model).layers, model.image_size), training)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("training", distinct_nets(), ids=lambda training: training.name)
def test_each_net_takes_a_step_at_full_size(training: Training) -> None:
    config = training.build()
    config.batch_size, config.mesh.data = 2, 1
    random, size = np.random.default_rng(0), config.model.image_size * 8 // 7
    statistic = Statistics(
        np.full((size, size, 3), 117, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32)
    )
    images = random.integers(0, 256, (2, size, size, 3), np.uint8)
    mesh = create_mesh(config.mesh)
    optimizer = create_optimizer(config, create_model(config).net, 100)
    state = create_train_state(config, create_model(config), optimizer, mesh)
    before = np.asarray(state.params["fc8"]["bias"])
    batch = shard_batch(mesh, {"image": images, "label": np.array([0, 1], np.int32)})
    state, metrics = create_train_step(config, create_model(config), optimizer, mesh, 100)(state, batch, statistic)
    assert 0 < float(metrics["loss"]) < math.inf
    assert not np.array_equal(before, np.asarray(state.params["fc8"]["bias"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
