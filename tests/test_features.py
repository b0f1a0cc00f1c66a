"""Features equal the module's own layer outputs and are written while they are computed; nearest neighbors."""

import json
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_bad_input import assert_refused, run
from test_data_datasets import write_small

from alexnet_jax.data.augmentation import center_view
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.feature_step import feature_shape
from alexnet_jax.features.nearest import Nearest
from alexnet_jax.features.output import open_for_writing
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.run.restore import restore
from alexnet_jax.state import create_model

LAYERS = ("conv1", "norm1", "pool5", "fc7", "relu7", "fc8")


@pytest.fixture(scope="module")
def net(trained_folder):
    return restore(trained_folder)


@pytest.fixture(scope="module")
def images(net) -> np.ndarray:
    """Sixteen validation images."""
    images = np.zeros((16, 72, 72, 3), np.uint8)
    open_dataset(net.config.data).evaluation.read(range(16), images, np.zeros(16, np.int32))
    return images


@pytest.fixture(scope="module")
def expected(net, images) -> dict[str, np.ndarray]:
    """Return the outputs of all layers from the module itself, on one device, by the layers' own names."""
    views = center_view(images, net.dataset_info.statistics, image_size=64, mean="image", std=())
    params = jax.device_get(net.params)
    _, variables = create_model(net.config).apply({"params": params}, views, mutable="intermediates")
    return variables["intermediates"]["outputs"][0]


@pytest.mark.parametrize("tower", [1, 2])
def test_features_are_the_outputs_of_the_module(tower: int, net, images, expected) -> None:
    """Several layers in one pass, with both towers on each of eight devices, and with one on each."""
    net = restore(net.folder, tower=tower)
    found = net.feature_extractor(LAYERS)(images)
    assert set(found) == set(LAYERS)
    for layer in LAYERS:
        assert found[layer].shape == (16, *feature_shape(net.config, net.model.net, layer))
        scale = np.abs(expected[layer]).max()
        # Other convolutions round otherwise; normalization keeps these differences while it shrinks large values.
        np.testing.assert_allclose(found[layer], expected[layer], atol=5e-5 * scale)
    np.testing.assert_array_equal(found["relu7"], np.maximum(found["fc7"], 0))
    assert (np.asarray(found["fc7"]) < 0).any()


def test_a_layer_that_the_net_lacks_is_refused_with_those_it_has(net) -> None:
    with pytest.raises(
        UserError, match=r"^layer='fc9' is not a layer of this net; its layers are conv1, relu1, .*, fc8\."
    ):
        feature_shape(net.config, VARIANTS["paper"], "fc9")


@pytest.mark.parametrize("sizes", [[], [5], [64, 64, 3]])
def test_npy_holds_what_was_written_piece_by_piece(sizes: list[int], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(sum(sizes), 6, 6, 4)).astype(np.float32)
    names = [f"{number}.jpg" for number in range(len(rows))]
    labels = np.arange(len(rows), dtype=np.int32)
    with open_for_writing(tmp_path / "x.npy", (6, 6, 4)) as write:
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            write(rows[part], names[part], labels[part])
            start += size
        assert not (tmp_path / "x.npy").exists()
    found = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(found, rows)
    assert json.loads((tmp_path / "x.names.json").read_text()) == names
    if sizes:
        np.testing.assert_array_equal(np.load(tmp_path / "x.labels.npy"), labels)


def test_labels_of_earlier_features_do_not_stay(tmp_path: Path) -> None:
    for labels in (np.zeros(2, np.int32), None):
        with open_for_writing(tmp_path / "x.npy", (3,)) as write:
            write(np.zeros((2, 3)), ["a", "b"], labels)
        assert (tmp_path / "x.labels.npy").exists() == (labels is not None)


@pytest.mark.parametrize("labeled", [True, False])
def test_parquet_holds_names_labels_and_features(labeled: bool, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(70, 2, 3)).astype(np.float32)
    labels = np.arange(70, dtype=np.int32)
    with open_for_writing(tmp_path / "x.parquet", (2, 3)) as write:
        for part in (slice(0, 64), slice(64, 70)):
            write(rows[part], [str(n) for n in labels[part]], labels[part] if labeled else None)
    table = pq.read_table(tmp_path / "x.parquet")
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), rows.reshape(70, 6))
    assert table["image"].to_pylist() == [str(n) for n in labels]
    assert table["label"].to_pylist() == (labels.tolist() if labeled else [None] * 70)


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_nothing_is_left_of_a_file_that_was_not_finished(name: str, tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with open_for_writing(tmp_path / name, (3,)) as write:
            write(np.zeros((2, 3)), ["a", "b"], None)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_features_whose_labels_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", refuse)
    refused = pytest.raises(OSError, match="No space left")
    with refused, open_for_writing(tmp_path / "x.npy", (3,)) as write:
        write(np.zeros((1, 3)), ["a"], np.zeros(1, np.int32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_names_that_are_not_utf8_are_written(name: str, tmp_path: Path) -> None:
    """As Python reads them from a folder; UTF-8 stays as it is."""
    with open_for_writing(tmp_path / name, (3,)) as write:
        write(np.zeros((2, 3)), ["\udcff.jpg", "\u202f\u00e9.jpg"], None)
    if name.endswith(".parquet"):
        assert pq.read_table(tmp_path / name)["image"].to_pylist() == ["\\udcff.jpg", "\u202f\u00e9.jpg"]
    else:
        assert json.loads((tmp_path / "x.names.json").read_text()) == ["\udcff.jpg", "\u202f\u00e9.jpg"]


def test_neighbors_are_the_nearest_by_euclidean_distance() -> None:
    """Compared with a sort of all distances, for batches of any size."""
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(3, 4, 5)), rng.normal(size=(40, 4, 5))
    names = [str(number) for number in range(40)]
    nearest = Nearest(queries, 6)
    for part in (slice(0, 2), slice(2, 30), slice(30, 40)):
        nearest.add(rows[part], names[part])
    for query, found in zip(queries, nearest.neighbors(), strict=True):
        distances = np.sqrt(np.square(rows - query).sum(axis=(1, 2)))
        assert [name for name, _ in found] == [str(number) for number in np.argsort(distances)[:6]]
        np.testing.assert_allclose([distance for _, distance in found], np.sort(distances)[:6])


def test_no_query_is_its_own_neighbor() -> None:
    """Only the image itself is left out, not others with the same features."""
    nearest = Nearest(np.zeros((2, 4)), 2, ["/a.jpg", "/other.jpg"])
    nearest.add(np.zeros((3, 4)), ["a.jpg", "copy.jpg", "b.jpg"], ["/a.jpg", "/copy.jpg", "/b.jpg"])
    nearest.add(np.ones((1, 4)), ["c.jpg"], ["/c.jpg"])
    of_a, of_other = nearest.neighbors()
    assert of_a == [("copy.jpg", 0.0), ("b.jpg", 0.0)]
    assert of_other == [("a.jpg", 0.0), ("copy.jpg", 0.0)]


def test_the_command_writes_several_layers_and_leaves_the_query_out(net, images, tmp_path: Path, monkeypatch) -> None:
    """The query is named in another way than among the images."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.fromarray(images[number]).save(tmp_path / "images" / f"{number}.png")
    folder, query = str(tmp_path / "images"), tmp_path / "images" / ".." / "images" / "2.png"
    flags = ["--layer=fc7,pool5", f"--output={tmp_path / 'x.npy'}"]
    result = run("features", f"--workdir={net.folder}", *flags, folder)
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path}/x.fc7.npy: fc7 of 4 images, " in result.stdout
    assert ", before relu7\n" in result.stdout
    for layer in ("fc7", "pool5"):
        found = np.load(tmp_path / f"x.{layer}.npy")
        assert found.shape == (4, *feature_shape(net.config, net.model.net, layer))
        assert len(json.loads((tmp_path / f"x.{layer}.names.json").read_text())) == 4
    result = run("features", f"--workdir={net.folder}", f"--neighbors={query}", "--json", folder)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    names = [neighbor["image"] for neighbor in answer["neighbors"]]
    assert sorted(names) == [f"{folder}/{number}.png" for number in (0, 1, 3)]


def test_the_command_writes_a_split_and_finds_an_image_in_it(net, images, expected, tmp_path: Path) -> None:
    """All of a split, padded and in order; the query's copy there is its nearest neighbor."""
    Image.fromarray(images[3]).save(tmp_path / "query.png")
    flags = ["--split=validation", "--layer=pool5", f"--output={tmp_path / 'x.npy'}", "--json", "--count=3"]
    result = run("features", f"--workdir={net.folder}", *flags, f"--neighbors={tmp_path / 'query.png'}")
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "x.npy")
    assert found.shape == (360, *feature_shape(net.config, net.model.net, "pool5"))
    np.testing.assert_allclose(found[:16], expected["pool5"], atol=1e-5 * np.abs(expected["pool5"]).max())
    labels = np.zeros(360, np.int32)
    open_dataset(net.config.data).evaluation.read(range(360), np.zeros((360, 72, 72, 3), np.uint8), labels)
    np.testing.assert_array_equal(np.load(tmp_path / "x.labels.npy"), labels)
    answer = json.loads(result.stdout.splitlines()[1])
    assert answer["image"] == str(tmp_path / "query.png")
    assert answer["neighbors"][0] == {"image": "validation/3", "distance": pytest.approx(0, abs=1e-3)}
    assert len(answer["neighbors"]) == 3


def test_the_command_leaves_out_broken_images_and_reports_them(net, images, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.fromarray(images[number]).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "1.png").write_bytes(b"broken")
    result = run("features", f"--workdir={net.folder}", f"--output={tmp_path / 'x.parquet'}", str(tmp_path / "images"))
    assert_refused(result, r"1\.png can't be read as an image")
    names = pq.read_table(tmp_path / "x.parquet")["image"].to_pylist()
    assert names == [str(tmp_path / "images" / f"{number}.png") for number in (0, 2)]


MISTAKES = {
    "no images": (["--output=x.npy"], "name images or folders of images"),
    "nothing to do": (["a.jpg"], r"--output is missing: .*, or search with --neighbors"),
    "another format": (["--output=x.csv", "--split=train"], r"--output=x.csv must end in .npy or .parquet"),
    "no such layer": (
        ["--layer=fc9", "--output=x.npy", "--split=train"],
        r"^error: --layer='fc9' is not a layer of this net",
    ),
    "prepared images": (
        ["--output=x.npy", "--split=train", "--preprocessing=caffe"],
        "--preprocessing needs original images, named after the flags",
    ),
    "a layer twice": (["--layer=fc7,fc7", "--output=x.npy", "a.jpg"], "--layer=fc7,fc7 must name at least one layer"),
    "neighbors in two layers": (["--layer=fc6,fc7", "--neighbors=a.jpg", "b.jpg"], "--neighbors compares one layer"),
    "a missing folder": (["--output=/proc/x.npy", "--split=train"], r"--output=/proc/x.npy can't be written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_sentence(mistake: str, net) -> None:
    arguments, sentence = MISTAKES[mistake]
    assert_refused(run("features", f"--workdir={net.folder}", *arguments), sentence)


def test_a_split_of_smaller_images_is_refused(net, tmp_path: Path) -> None:
    write_small(tmp_path)
    flags = ["--split=train", "--dataset=small", f"--data_dir={tmp_path}", f"--output={tmp_path / 'x.npy'}"]
    sentence = rf"{net.folder} was trained on images of 72 pixels a side, but those of 'small' in .* have 8; prepare"
    assert_refused(run("features", f"--workdir={net.folder}", *flags), sentence)


def test_one_tower_is_not_spread_over_two_devices(trained_folder, tmp_path: Path) -> None:
    config = json.loads((trained_folder / "config.json").read_text())
    config["model"]["variant"] = "merged"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=rf"^tower=2 is not allowed for {tmp_path}: 'merged' is a net with one tower; use tower=1"
    ):
        restore(tmp_path, tower=2)
