"""A report's numbers agree with the evaluation's, and it says what is missing."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.metrics
import sklearn.neighbors
from PIL import Image

from alexnet_jax.config import Config, ModelConfig
from alexnet_jax.data.augmentation import center_view
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.metrics import read_records
from alexnet_jax.model.ablations import build_net
from alexnet_jax.report import confusion, curves, figure_4, filters, outputs
from alexnet_jax.report.contents import Contents, collect
from alexnet_jax.report.page import page, write
from alexnet_jax.report.section import Section, Table
from alexnet_jax.run.restore import restore
from alexnet_jax.state import create_model
from alexnet_jax.train import train_and_evaluate
from configs import quickstart

ROOT = Path(__file__).resolve().parents[1]
NASTY = '<script>alert("$x^2$")</script>'


@pytest.fixture(scope="module")
def trained(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train briefly, with two evaluations, and return the workdir."""
    config = quickstart.get_config()
    config.num_epochs, config.eval.every_epochs, config.log.every_steps = 2.0, 1.0, 1
    config.model.conv_width, config.model.fc_width = 0.0833, 0.0079
    config.mesh.data, config.data.dir = 1, str(digits_dir)
    folder = tmp_path_factory.mktemp("runs") / "short"
    train_and_evaluate(config, folder)
    return folder


@pytest.fixture(scope="module")
def contents(trained: Path) -> Contents:
    return collect(trained, "latest", None, 10_000)


def texts(contents: Contents) -> dict[str, str]:
    return {section.title: " ".join(section.text) for section in contents.sections}


def pixels(figure: bytes | None) -> np.ndarray:
    assert figure is not None
    return np.asarray(Image.open(io.BytesIO(figure)).convert("RGB")).astype(int)


def test_a_report_has_all_sections_with_a_figure_each(contents: Contents) -> None:
    names = ["curves", "filters", "predictions", "neighbors", "confusion"]
    assert [section.name for section in contents.sections] == names
    for section in contents.sections:
        assert pixels(section.figure).std() > 5, section.title  # something is drawn


def test_the_page_needs_no_other_file(contents: Contents) -> None:
    html = page(*contents)
    assert html.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=.(?!data:)|https?:|@import|url\(", html)


def test_the_same_checkpoint_gives_the_same_bytes(trained: Path, contents: Contents) -> None:
    """Also if the user's matplotlib settings are different."""
    with matplotlib.rc_context({"figure.dpi": 50, "figure.facecolor": "red", "lines.linewidth": 5, "font.size": 20}):
        assert page(*collect(trained, "latest", None, 10_000)) == page(*contents)


def test_numbers_agree_with_the_evaluation(trained: Path, contents: Contents) -> None:
    *_, evaluation = (record for record in read_records(trained) if record["split"] == "validation")
    assert f"Top-1 error {evaluation['top1_error']:.2f} %" in texts(contents)[confusion.TITLE]
    assert f"top-1 error {evaluation['top1_error']:.2f} %" in texts(contents)[curves.TITLE]
    assert "360 of 360 images" in texts(contents)[confusion.TITLE]


def test_few_images_drawn_evenly_suffice(trained: Path) -> None:
    """Compare the neighbors with those that the module alone and scikit-learn find among the same images."""
    found = texts(collect(trained, "latest", None, 50))
    assert "50 of 360 images" in found[confusion.TITLE]
    assert "50 of 1,437 training images" in found[figure_4.NEIGHBORS]

    net = restore(trained)
    dataset = open_dataset(net.config.data)
    features, labels = [], []
    for source in (dataset.evaluation, dataset.train):
        images, classes = outputs.drawn_evenly(source, 50).fetch(np.arange(50))
        views = center_view(images, net.dataset_info.statistics, image_size=64, mean="image")
        _, sown = create_model(net.config).apply({"params": net.params}, views, mutable="intermediates")
        features.append(np.asarray(sown["intermediates"]["outputs"][0]["relu7"]))
        labels.append(classes)
    asked = np.array([np.flatnonzero(labels[0] == label)[0] for label in (0, 2, 4, 6, 8)])
    searcher = sklearn.neighbors.NearestNeighbors(n_neighbors=6, algorithm="brute").fit(features[1])
    nearest = searcher.kneighbors(features[0][asked], return_distance=False)
    share = np.mean(labels[1][nearest] == labels[0][asked][:, None])
    assert f" {share:.0%} of the neighbors shown are of their query's class" in found[figure_4.NEIGHBORS]


def test_a_run_without_a_checkpoint_has_its_curves(trained: Path, tmp_path: Path) -> None:
    running = Path(shutil.copytree(trained, tmp_path / "running"))
    shutil.rmtree(running / "checkpoints")
    first, *others = collect(running, "latest", None, 100).sections
    assert first.figure is not None
    assert len(others) == 4
    for section in others:
        assert section.figure is None
        assert re.fullmatch(r".* has no checkpoint yet; [^.]*\.", " ".join(section.text))


def test_a_run_without_records_says_so(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    title, _, _, (first, *_) = collect(tmp_path, "latest", None, 100)
    assert title == f"{tmp_path.parent.name}/{tmp_path.name}: AlexNet on digits"  # a seed's folder is only a number
    assert first.figure is None
    assert "no records yet" in " ".join(first.text)


def test_without_the_data_set_the_kernels_are_shown(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    config = json.loads((trained / "config.json").read_text())
    config["data"]["name"] = "imagenet2012"
    moved = Path(shutil.copytree(trained, tmp_path / "moved"))
    (moved / "config.json").write_text(json.dumps(config))
    sections = {section.title: section for section in collect(moved, "latest", tmp_path, 100).sections}
    assert sections[filters.TITLE].figure is not None
    for title in (figure_4.PREDICTIONS, figure_4.NEIGHBORS, confusion.TITLE):
        assert sections[title].figure is None
        assert "there is no data set in" in " ".join(sections[title].text)


def test_the_classes_must_be_those_of_the_training(trained: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(trained, tmp_path / "moved"))
    info = json.loads((moved / "dataset.json").read_text())
    (moved / "dataset.json").write_text(json.dumps({**info, "label_names": info["label_names"][::-1]}))
    sections = {section.title: section for section in collect(moved, "latest", None, 100).sections}
    (data,) = Path(json.loads((moved / "config.json").read_text())["data"]["dir"]).glob("digits/*/dataset_info.json")
    assert sections[confusion.TITLE].text == [
        f"{moved} was trained on the classes of 'digits', which are not those of 'digits' in {data.parent}; use data "
        "and nets with the same classes in the same order."
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no run: .*config.json is missing"),
        ("[1, 2]", "config.json is damaged"),
        ('{"learning_rate": 1}', "has no field 'learning_rate'"),
    ],
)
def test_an_empty_or_foreign_folder_is_refused(content: str | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        collect(tmp_path, "latest", None, 100)


def test_the_command_writes_page_and_figures_or_one_sentence(trained: Path, tmp_path: Path) -> None:
    result = report("--workdir", str(trained), "--output", str(tmp_path / "out"), "--max_images=100")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(tmp_path / "out" / "index.html")
    figures = {f"{name}.png" for name in ("curves", "filters", "predictions", "neighbors", "confusion")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "report.json", *figures}
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["confusion"]["images"] == 100
    colors = numbers["filters"]["color_of_all_energy"]
    assert len(colors) == 2
    assert all(0 < color < 1 for color in colors)
    result = report("--workdir", str(tmp_path / "out"))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "holds no run" in result.stderr


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*file can't be written"):
        write(tmp_path / "file", {"index.html": b""})


def report(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "alexnet_jax.report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_names_cannot_smuggle_html_into_the_page() -> None:
    labels, guesses = np.array([0, 0, 1]), np.array([1, 0, 1])
    section = confusion.confusion_section(labels, guesses, (NASTY, "b & <b>"), "Three images.")
    html = page(NASTY, {NASTY: NASTY}, Table((NASTY,), [(NASTY,)]), [section, Section(NASTY, (NASTY,))])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 7
    assert "b &amp; &lt;b&gt;" in html


def test_the_correct_answer_is_marked_in_pink() -> None:
    """One bar is pink, as long as the correct class is probable; none if it is not among the five best guesses."""
    images = np.zeros((1, 8, 8, 3), np.uint8)
    probabilities = np.array([[0.3, 0.25, 0.2, 0.15, 0.1, 0.0]])

    def pink(label: int) -> int:
        section = figure_4.predictions_section(
            outputs.Examples(images, np.array([label])), probabilities, list("abcdef")
        )
        red, green, blue = np.moveaxis(pixels(section.figure), -1, 0)
        return int(((red > 200) & (green < 170) & (blue > 150)).sum())

    assert pink(5) == 0
    areas = [pink(label) for label in range(5)]
    np.testing.assert_allclose(np.array(areas) / areas[0], probabilities[0, :5] / 0.3, atol=0.12)


def test_best_guesses_are_in_order() -> None:
    np.testing.assert_array_equal(figure_4.best_guesses(np.array([0.1, 0.4, 0.1, 0.3, 0.05, 0.05])), [1, 3, 0, 2, 4])


def test_color_is_the_share_of_energy_off_the_gray_axis() -> None:
    random = np.random.default_rng(0)
    pattern = random.normal(size=(11, 11, 1, 3))
    gray = pattern * np.ones((1, 1, 3, 1))
    opponent = pattern * np.array([1.0, -1.0, 0.0])[:, None]
    np.testing.assert_allclose(filters.color_share(gray, filters.PER_KERNEL), 0, atol=1e-12)
    np.testing.assert_allclose(filters.color_share(opponent, filters.PER_KERNEL), 1)
    red = pattern * np.array([1.0, 0.0, 0.0])[:, None]  # one part brightness, two parts color
    np.testing.assert_allclose(filters.color_share(red, filters.PER_KERNEL), 2 / 3)
    normal = random.normal(size=(11, 11, 3, 96))
    assert filters.color_share(normal, filters.PER_KERNEL).mean() == pytest.approx(2 / 3, abs=0.01)
    both = np.concatenate([gray, 0.01 * opponent], axis=-1)  # small kernels hardly count
    assert filters.color_share(both) == pytest.approx(1e-4 / (1 + 1e-4), rel=0.5)


def test_kernels_are_laid_out_in_rows_of_sixteen_on_one_scale() -> None:
    kernels = np.random.default_rng(1).uniform(-1, 1, (5, 5, 3, 20))
    image = filters.mosaic(kernels, -1.0, 1.0)
    assert image.shape == (2 * 6 + 1, 16 * 6 + 1, 3)
    np.testing.assert_allclose(image[1:6, 1:6], (kernels[..., 0] + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(image[7:12, 19:24], (kernels[..., 19] + 1) / 2, rtol=1e-6)
    assert (image[::6] == 1).all()
    assert (image[:, ::6] == 1).all()


def test_examples_are_drawn_evenly() -> None:
    class Numbers:
        image_size = 1

        def __len__(self) -> int:
            return 10

        def read(self, indices, images, labels) -> None:
            labels[:] = indices

    assert outputs.drawn_evenly(Numbers(), 4).fetch(np.arange(4))[1].tolist() == [0, 2, 5, 7]
    assert len(outputs.drawn_evenly(Numbers(), 99)) == 10
    labels = np.array([2, 0, 0, 1, 2, 3, 4])
    assert outputs.one_of_each_class(labels, 2).tolist() == [1, 0]
    assert sorted(labels[outputs.one_of_each_class(labels, 9)]) == [0, 1, 2, 3, 4]


def test_confusion_agrees_with_scikit_learn() -> None:
    labels, guesses = np.random.default_rng(3).integers(0, 7, (2, 500))
    counts = confusion.confusion_matrix(labels, guesses, 8)
    np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(labels, guesses, labels=range(8)))


def test_the_worst_classes_come_first() -> None:
    counts = np.array([[4, 0, 0, 0], [1, 1, 2, 0], [0, 0, 0, 0], [0, 3, 1, 0]])
    worst = confusion.worst_classes(counts)
    assert [(one.number, one.images, one.error, one.taken_for, one.taken_for_share) for one in worst] == [
        (3, 4, 100.0, 1, 75.0),
        (1, 4, 75.0, 2, 50.0),
        (0, 4, 0.0, None, 0.0),
    ]


def test_of_a_thousand_classes_the_worst_are_shown() -> None:
    labels = np.arange(3000) % 1000
    guesses = np.where(labels < 990, labels, (labels * 7) % 1000)
    section = confusion.confusion_section(labels, guesses, [f"class {n}" for n in range(1000)], "All.")
    assert section.table is not None
    assert len(section.table.rows) == 20
    assert section.table.rows[0][0] == "class 990"
    assert "the 20 worst" in " ".join(section.text)


def test_of_two_evaluations_of_a_step_the_last_counts() -> None:
    records = [
        {"split": "train", "step": 1, "epoch": 0.1, "loss": 2.0, "learning_rate": 0.1},
        {"split": "validation", "step": 2, "epoch": 0.2, "loss": 1.0, "views": 1},
        {"split": "validation", "step": 2, "epoch": 0.2, "loss": 0.5, "views": 10},
        {"split": "train", "step": 3, "epoch": 0.3, "loss": None, "learning_rate": 0.1},
        {"split": "validation", "step": 2, "epoch": 0.2, "loss": 0.9, "views": 1},
    ]
    series = curves.group_records(records)
    assert list(series) == ["train", "validation, 1 view", "validation, 10 views"]
    assert [values.tolist() for values in curves.curve(series["validation, 1 view"], "loss")] == [[0.2], [0.9]]
    assert [values.tolist() for values in curves.curve(series["train"], "loss")] == [[0.1], [2.0]]


def test_without_a_top_5_error_there_is_no_word_and_no_panel_of_it() -> None:
    """At most five classes: `top5_error` is null."""
    errors = {"loss": 1.0, "top1_error": 20.0, "top5_error": None}
    records = [
        {"split": "train", "step": 1, "epoch": 0.1, **errors, "learning_rate": 0.1},
        {"split": "validation", "step": 2, "epoch": 0.2, **errors, "views": 1},
    ]
    section = curves.curves_section(records)
    assert section.text == ["Up to epoch 0.20. validation, 1 view: top-1 error 20.00 %, loss 1.0000 (epoch 0.20)."]
    assert section.figure is not None


def test_long_curves_are_drawn_as_means_of_consecutive_points() -> None:
    epochs, values = curves.smoothed(np.array([np.arange(10.0), np.arange(10.0) ** 2]), bins=5)
    assert epochs.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert values.tolist() == [0.5, 6.5, 20.5, 42.5, 72.5]


def test_every_variant_has_a_last_hidden_layer() -> None:
    assert outputs.last_hidden_layer(build_net(ModelConfig(variant="torchvision"))) == "relu7"
    assert outputs.last_hidden_layer(build_net(Config().model)) == "relu7"
