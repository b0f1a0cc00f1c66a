"""Mistakes of users: each ends in one sentence that names it, with exit status 2 and no traceback."""

import ctypes
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax.config import Config, to_dict
from alexnet_jax.data.dataset_info import load_dataset_info, save_dataset_info
from alexnet_jax.errors import EXIT_USER_ERROR, UserError
from alexnet_jax.run import workdir as workdirs

QUICKSTART = "--config=configs/quickstart.py"
ROOT = Path(__file__).resolve().parents[1]

# Arguments of alexnet_jax.main, and what the sentence must say. {tmp} is an empty folder.
MISTAKES = {
    "no config": (["--workdir={tmp}/w"], r"--config is missing: give a config file, for example"),
    "no workdir": ([QUICKSTART], r"--workdir is missing: give the folder for checkpoints and logs"),
    "no such config file": (
        ["--config=configs/quikstart.py"],
        r"no such file; there are .*configs/quickstart.py",
    ),
    "config file with an impossible name": (
        [f"--config={300 * 'x'}.py"],
        r"--config=x+.py can't be read \(File name too long\)",
    ),
    "workdir in an unknown home": (
        [QUICKSTART, "--workdir=~who/w"],
        r"--workdir=~who/w: the home folder that '~' stands for is unknown; write the path out",
    ),
    "config is not Python": (
        ["--config=requirements.txt"],
        r"=requirements.txt can't be run as a Python file \(Syntax",
    ),
    "config file that is a folder": (["--config=configs"], r"--config=configs: there is no such file; there are"),
    "config file without a name": (["--config="], r"--config is empty; give a path"),
    "config of a bucket": (["--config=gs://b/c.py"], r"--config=gs://b/c.py is remote; copy it to this machine"),
    "config with an argument": ([f"{QUICKSTART}:x"], r"TypeError: get_config\(\) takes 0 positional arguments but 1"),
    "missing flag file": (["--flagfile={tmp}/none"], r"No such file .*'{tmp}/none'; give a text file with one flag"),
    "flag file that is a folder": (["--flagfile={tmp}"], r"Is a directory: '{tmp}'; give a text file with one flag"),
    "flag file without a name": (["--flagfile"], r"--flagfile with no argument"),
    "flag file that is not text": (["--flagfile={tmp}/binary"], r"--flagfile is not a text file"),
    "unknown field in a flag file": (
        [QUICKSTART, "--flagfile={tmp}/flags"],
        r"--config.batch_sise=64: the config has no field 'batch_sise'; did you mean 'batch_size'\?",
    ),
    "missing config in a flag file": (
        ["--flagfile={tmp}/no_config"],
        r"--config=configs/quikstart.py: there is no such file; there are .*configs/quickstart.py",
    ),
    "empty workdir": ([QUICKSTART, "--workdir="], r"--workdir is empty; give a path"),
    "empty data folder": (
        [QUICKSTART, "--config.data.dir="],
        r"config.data.dir='' is not allowed; it must be a folder",
    ),
    "unknown flag": ([QUICKSTART, "--wrkdir=x"], r"Unknown command line flag 'wrkdir'. Did you mean: workdir"),
    "stray argument": ([QUICKSTART, "--workdir={tmp}/w", "digits"], r"unexpected argument 'digits'"),
    "unknown field": ([QUICKSTART, "--config.batch_sise=64"], r"no field 'batch_sise'; did you mean 'batch_size'\?"),
    "unknown nested field": (
        [QUICKSTART, "--config.model.varient=paper"],
        r"no field 'model.varient'; did you mean 'model.variant'\?",
    ),
    "field without its section": (
        [QUICKSTART, "--config.learning_rate=1"],
        r"no field 'learning_rate'; did you mean 'optimizer.learning_rate'\?",
    ),
    "text for a whole number": (
        [QUICKSTART, "--config.batch_size=many"],
        r"batch_size='many' must be a whole number",
    ),
    "fraction for a whole number": (
        [QUICKSTART, "--config.batch_size=1.5"],
        r"batch_size='1.5' must be a whole",
    ),
    "text for a number": (
        [QUICKSTART, "--config.optimizer.learning_rate=fast"],
        r"config.optimizer.learning_rate='fast' must be a number",
    ),
    "text for a truth value": (
        [QUICKSTART, "--config.data.flip=perhaps"],
        r"data.flip='perhaps' must be True or",
    ),
    "text in a tuple": (
        [QUICKSTART, '--config.optimizer.drops=("a",)'],
        r"drops=\('a',\) must be a tuple",
    ),
    "batch of nothing": ([QUICKSTART, "--config.batch_size=0"], r"config.batch_size=0 is not allowed; .* at least 1"),
    "negative epochs": ([QUICKSTART, "--config.num_epochs=-1"], r"config.num_epochs=-1.0 is not allowed; .* above 0"),
    "rate that is not a number": (
        [QUICKSTART, "--config.optimizer.learning_rate=nan"],
        r"rate=nan is not allowed",
    ),
    "momentum of one": ([QUICKSTART, "--config.optimizer.momentum=1"], r"momentum=1.0 is not allowed; .* below 1"),
    "drops out of order": (
        [QUICKSTART, "--config.optimizer.drops=(0.6,0.3)"],
        r"config.optimizer.drops=\(0.6, 0.3\) is not allowed; .* in rising order",
    ),
    "frozen layer that is none": (
        [QUICKSTART, '--config.optimizer.frozen=("conv1","relu2")'],
        r"frozen=\('conv1', 'relu2'\) names 'relu2', which is not a layer with parameters; .* are conv1, .*, fc8",
    ),
    "number for a layer": ([QUICKSTART, "--config.optimizer.frozen=(1,)"], r"frozen=\(1,\) must be a tuple of names"),
    "nothing left to train": (
        [QUICKSTART, f"--config.optimizer.frozen={('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')}"],
        r"names every layer, so nothing would be trained; leave one out",
    ),
    "unknown precision": ([QUICKSTART, "--config.precision=fp16"], r"'fp16' is not allowed; .* float32, bfloat16"),
    "unknown variant": (
        [QUICKSTART, "--config.model.variant=cafe"],
        r"model.variant='cafe' is unknown; allowed: paper, original, .* Did you mean 'caffe'\?",
    ),
    "option that the variant lacks": (
        [QUICKSTART, "--config.model.variant=torchvision", "--config.model.normalization=first"],
        r"model.variant='torchvision' contradicts model.normalization='first': .* no response normalization",
    ),
    "image smaller than a window": (
        [QUICKSTART, "--config.model.image_size=30"],
        r"model.image_size=30 is too small: pool2 needs a window of 3 pixels but its input has only 2",
    ),
    "three towers": ([QUICKSTART, "--config.mesh.tower=3"], r"config.mesh.tower=3 is not allowed; .* one of 1, 2"),
    "two devices for one tower": (
        [QUICKSTART, "--config.mesh.tower=2", "--config.model.variant=merged"],
        r"config.mesh.tower=2 needs a net with two towers, but model.variant='merged' has one",
    ),
    "batch that does not divide": (
        [QUICKSTART, "--config.batch_size=100", "--config.mesh.data=8"],
        r"config.batch_size=100 is not divisible into the 8 shards of config.mesh.data=8; take .* for example 104",
    ),
    "micro-batches that do not divide": (
        [QUICKSTART, "--config.mesh.data=2", "--config.gradient_accumulation=3"],
        r"gradient_accumulation=3 does not divide the 64 images that each of the 2 shards .* take a divisor of 64",
    ),
    "hybrid of two towers": (
        [QUICKSTART, "--config.mesh.shard_fully_connected=True"],
        r"shard_fully_connected=True needs a net with one tower, but model.variant='paper' has 2",
    ),
    "hybrid without fully connected layers": (
        ["--config=configs/cifar_13pct.py", "--config.mesh.shard_fully_connected=True"],
        r"True needs fully connected layers below the classifier, but model.variant='cifar_13pct' has none",
    ),
    "hybrid of another kind": (
        [QUICKSTART, "--config.mesh.shard_fully_connected=gathered"],
        r"config.mesh.shard_fully_connected='gathered' must be True or False",
    ),
    "units that do not divide": (
        [
            *(QUICKSTART, "--config.model.variant=merged", "--config.mesh.shard_fully_connected=True"),
            *("--config.mesh.data=3", "--config.batch_size=120", "--config.eval.batch_size=120"),
        ],
        r"True splits the 512 units of fc6 into the 3 shards of config.mesh.data=3, which do not divide them",
    ),
    "unknown checkpoint to start from": (
        [QUICKSTART, "--config.init_from=x", "--config.init_step=newest"],
        r"config.init_step='newest' is not allowed; it must be latest, best or the number of a step",
    ),
    "checkpoint of nothing": ([QUICKSTART, "--config.init_step=best"], r"init_step='best' needs config.init_from"),
    "three views": ([QUICKSTART, "--config.eval.views=3"], r"config.eval.views=3 is not allowed; .* 1, 10"),
    "config without get_config": (["--config=tests/checkouts.py"], r"checkouts.py defines no function get_config\(\)"),
    # From here on the data set is opened, or JAX started.
    "missing data set": (
        ["--config=configs/imagenet.py", "--config.data.dir={tmp}", "--workdir={tmp}/w"],
        r"no data set .*python -m alexnet_jax.prepare --dataset=imagenet2012 --source=PATH",
    ),
    "unknown split": (
        [QUICKSTART, "--config.data.dir={data}", "--config.data.eval_split=test", "--workdir={tmp}/w"],
        r"no split 'test'; it has train, validation",
    ),
    "another number of classes": (
        [QUICKSTART, "--config.data.dir={data}", "--config.model.num_classes=1000", "--workdir={tmp}/w"],
        r"model.num_classes=1000, but data.name='digits' has 10 classes; set model.num_classes=10",
    ),
    "images that are too small": (
        [QUICKSTART, "--config.data.dir={data}", "--config.model.image_size=224", "--workdir={tmp}/w"],
        r"model.image_size=224 is larger than the images of data.name='digits' \(72 pixels a side\)",
    ),
    "more devices than available": (
        [QUICKSTART, "--config.data.dir={data}", "--config.mesh.tower=2", "--workdir={tmp}/w"],
        r"config.mesh.data=1 x config.mesh.tower=2 needs 2 devices, but there is 1 \(cpu\)",
    ),
    "no accelerator": (
        [QUICKSTART, "--config.data.dir={data}", "--config.require_accelerator", "--workdir={tmp}/w"],
        r"require_accelerator=True, but JAX finds only the CPU",
    ),
    "workdir is a file": (
        [QUICKSTART, "--config.data.dir={data}", "--workdir={tmp}/file"],
        r"--workdir={tmp}/file can't be written \((Not a directory|File exists)\)",
    ),
    "workdir in a folder without permission": (
        [QUICKSTART, "--config.data.dir={data}", "--workdir=/proc/alexnet"],
        r"--workdir=/proc/alexnet can't be written \(No such file or directory\)",
    ),
}


def run(command: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{command}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(result: subprocess.CompletedProcess, sentence: str) -> None:
    """Status 2, one sentence on stderr that says what it must, and no traceback."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == EXIT_USER_ERROR, result.stderr
    assert len(errors) == 1, result.stderr
    assert re.search(sentence, errors[0]), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_sentence(mistake: str, tmp_path: Path, digits_dir: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    (tmp_path / "flags").write_text("--config.batch_sise=64\n")
    (tmp_path / "no_config").write_text("--config=configs/quikstart.py\n")
    arguments, sentence = MISTAKES[mistake]
    places = {"tmp": str(tmp_path), "data": str(digits_dir)}
    result = run("main", *(argument.format(**places) for argument in arguments))
    assert_refused(result, sentence.replace("{tmp}", re.escape(str(tmp_path))))
    assert not (tmp_path / "w").exists()


CONFIG_FILES = {
    "error on import": ("import confgs\n", r"\(ModuleNotFoundError: No module named 'confgs', in line 1\); correct it"),
    "error in get_config": (
        "def get_config():\n    return int('x')\n",
        r"\(ValueError: .*'x', in line 2\); correct it",
    ),
    "file that it can't open": ("def get_config():\n    open('/none')\n", r"\(FileNotFoundError: .*, in line 2\)"),
    "not a function": ("get_config = 1\n", r"defines no function get_config\(\); see configs/quickstart.py"),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_a_config_file_that_fails_is_named_with_the_line(name: str, tmp_path: Path) -> None:
    text, sentence = CONFIG_FILES[name]
    (tmp_path / "mine.py").write_text(text)
    result = run("main", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'w'}")
    assert_refused(result, rf"--config={tmp_path}/mine.py .*{sentence}")


@pytest.mark.parametrize(
    "text",
    [
        "from configs.quickstart import get_config\n",
        "from configs import quickstart\nget_config = quickstart.get_config\n",
        "import functools\nfrom configs import quickstart\n@functools.cache\ndef get_config():\n"
        "    return quickstart.get_config()\n",
    ],
    ids=["imported", "assigned", "decorated"],
)
def test_get_config_may_be_defined_in_any_way(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "flags").write_text(f"--config={tmp_path / 'mine.py'}\n--config.model.image_size=72\n")
    result = run("summary", f"--flagfile={tmp_path / 'flags'}", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["image_size"] == 72


def test_a_misspelled_field_in_a_config_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "misspelled.py"
    file.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config()\n"
        "    config.model.varient = 'original'\n"
        "    return config\n"
    )
    result = run("main", f"--config={file}", f"--workdir={tmp_path / 'w'}")
    assert_refused(result, r"no field 'model.varient'; did you mean 'model.variant'\?")


def test_a_config_file_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def get_config():\n    return {'seed': 1}\n")
    result = run("main", f"--config={tmp_path / 'other.py'}", f"--workdir={tmp_path / 'w'}")
    assert_refused(result, r"get_config\(\) of --config must return an alexnet_jax.config.Config, not a <class .*dict")


def test_all_faults_of_a_config_are_listed_at_once() -> None:
    result = run("main", QUICKSTART, "--config.seed=-1", "--config.eval.views=2", "--workdir=unused")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == EXIT_USER_ERROR
    assert [line.split("=")[0] for line in errors] == ["error: config.seed", "error: config.eval.views"]


@pytest.fixture(scope="module")
def trained(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The workdir of a finished run of two steps, and its arguments."""
    workdir = tmp_path_factory.mktemp("trained")
    arguments = [
        QUICKSTART,
        f"--config.data.dir={digits_dir}",
        "--config.model.conv_width=0.08",
        "--config.model.fc_width=0.01",
        "--config.num_epochs=0.18",
        "--config.checkpoint.every_epochs=0.09",
    ]
    result = run("main", *arguments, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, arguments


@pytest.fixture
def workdir(trained: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of that workdir, to damage."""
    return Path(shutil.copytree(trained[0], tmp_path / "copy"))


def test_another_config_in_the_same_workdir_names_the_fields(trained, workdir: Path) -> None:
    changes = ["--config.seed=5", "--config.optimizer.momentum=0.8"]
    result = run("main", *trained[1], *changes, f"--workdir={workdir}")
    assert_refused(
        result, r"another config: config.seed=5 \(the run has 0\), config.optimizer.momentum=0.8 \(the run has 0.9\)"
    )


def test_an_environment_with_other_numbers_is_refused(trained, workdir: Path, monkeypatch) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    result = run("main", *trained[1], f"--workdir={workdir}")
    assert_refused(result, rf"JAX_ENABLE_X64=True changes the numbers .* the run in --workdir={workdir} has False; set")


def test_a_damaged_config_file_is_named(trained, workdir: Path) -> None:
    (workdir / "config.json").write_text('{"seed": ')
    for command, arguments in (("main", trained[1]), ("evaluate", [])):
        assert_refused(run(command, *arguments, f"--workdir={workdir}"), r"config.json is damaged")


def test_a_foreign_config_file_is_named(workdir: Path) -> None:
    (workdir / "config.json").write_text(json.dumps({"learning_rate": 0.1}))
    assert_refused(run("evaluate", f"--workdir={workdir}"), r"config.json: the config has no field 'learning_rate'")


def test_the_config_of_an_older_version_is_named(tmp_path: Path) -> None:
    """It has fields that are gone."""
    config = to_dict(Config())
    config["mesh"]["shard_velocity"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json was written by an older version of this program; use that"):
        workdirs.read_config(tmp_path)


def test_a_config_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert_refused(run("evaluate", f"--workdir={tmp_path}"), r"config.json can't be read \(Is a directory\)")


def test_evaluate_refuses_other_classes(workdir: Path) -> None:
    facts = json.loads((workdir / "dataset.json").read_text())
    (workdir / "dataset.json").write_text(json.dumps({**facts, "label_names": facts["label_names"][::-1]}))
    sentence = rf"{workdir} was trained on the classes of 'digits', which are not those of 'digits' in .*; use data"
    assert_refused(run("evaluate", f"--workdir={workdir}"), sentence)


def test_evaluate_refuses_images_of_another_size(trained, workdir: Path) -> None:
    """Of each net of an ensemble."""
    facts = load_dataset_info(workdir)
    cut = facts.statistics._replace(mean_image=facts.statistics.mean_image[1:-1, 1:-1])
    save_dataset_info(dataclasses.replace(facts, statistics=cut), workdir)
    result = run("evaluate", f"--workdir={trained[0]},{workdir}")
    sentence = rf"{workdir} was trained on images of 70 pixels a side, but those of 'digits' in .* have 72; prepare"
    assert_refused(result, sentence)


def test_evaluate_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    assert_refused(run("evaluate", f"--workdir={tmp_path}"), r"holds no run: .*config.json is missing")


def test_evaluate_refuses_a_step_without_a_checkpoint(workdir: Path) -> None:
    assert_refused(run("evaluate", f"--workdir={workdir}", "--step=77"), r"no checkpoint of step 77; it has 1, 2")
    sentence = r"--step=newest: it must be the number of a step, best or latest"
    assert_refused(run("evaluate", f"--workdir={workdir}", "--step=newest"), sentence)


def test_evaluate_prints_a_result_that_can_not_be_written(workdir: Path) -> None:
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.jsonl").mkdir()
    result = run("evaluate", f"--workdir={workdir}", "--json")
    assert_refused(
        result, r"metrics\.jsonl can't be written \(Is a directory\); choose a writable folder, or free some space\."
    )
    assert json.loads(result.stdout)["num_examples"] == 360


def test_evaluate_refuses_views_that_do_not_exist(workdir: Path) -> None:
    assert_refused(run("evaluate", f"--workdir={workdir}", "--views=5"), r"views")


def test_evaluate_refuses_a_moved_data_set(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["name"] = "imagenet2012"
    (workdir / "config.json").write_text(json.dumps(config))
    result = run("evaluate", f"--workdir={workdir}", f"--data_dir={tmp_path}/nothing")
    assert_refused(result, r"no data set")


def test_a_damaged_checkpoint_is_skipped_with_a_warning(workdir: Path) -> None:
    newest = max((path for path in (workdir / "checkpoints").iterdir()), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.write_bytes(b"")
    result = run("evaluate", f"--workdir={workdir}", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 1
    assert re.search(r"2 is damaged .*trying the previous one", result.stderr)


def test_a_workdir_in_use_is_refused(trained, workdir: Path) -> None:
    with workdirs.lock(workdir):
        result = run("main", *trained[1], f"--workdir={workdir}")
    assert_refused(result, rf"is in use by process {os.getpid()}")


@pytest.mark.parametrize("command", ["main", "evaluate"])
def test_jax_platforms_that_are_not_available(trained, tmp_path: Path, command: str) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    arguments = [*trained[1], f"--workdir={tmp_path / 'w'}"] if command == "main" else [f"--workdir={trained[0]}"]
    result = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{command}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_refused(result, r"JAX finds no device of the platform that JAX_PLATFORMS=cuda asks for")


def test_a_full_disk_ends_in_one_sentence(trained, tmp_path: Path) -> None:
    """A limit on the size of files simulates the full disk: writing fails in the same place."""
    command = [sys.executable, "-m", "alexnet_jax.main", *trained[1], f"--workdir={tmp_path / 'w'}"]
    result = subprocess.run(
        ["bash", "-c", 'ulimit -f 64; exec "$@"', "limited", *command],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_refused(result, r"The checkpoint of step 1 can't be written to .*checkpoints \(File too large\)")


# Paths


@pytest.mark.parametrize("place", ["--workdir", "--config.data.dir", "--config.init_from"])
def test_a_remote_path_is_refused_before_anything_is_written(place: str, tmp_path: Path) -> None:
    """Not taken for a folder named `gs:`."""
    command = [sys.executable, "-m", "alexnet_jax.main", f"--config={ROOT / 'configs' / 'quickstart.py'}"]
    result = subprocess.run(
        [*command, f"--workdir={tmp_path / 'w'}", "--config.num_epochs=0.1", f"{place}=gs://bucket/folder"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_refused(result, rf"{place.lstrip('-')}='?gs://bucket/folder'? is (remote|not allowed; .*not a remote one)")
    assert list(tmp_path.iterdir()) == []


def test_every_flag_of_every_command_that_is_a_path_is_checked() -> None:
    """All flags that take any text, except those that are known to be no paths."""
    commands = [*(ROOT / "alexnet_jax").glob("*/__main__.py"), *(ROOT / "alexnet_jax").glob("*.py")]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in commands if "cli.run" in path.read_text()
    ]
    assert len(modules) >= 9
    script = f"""
import importlib
from absl import flags
from alexnet_jax import cli  # and with it absl's own flags
from alexnet_jax.errors import UserError

NO_PATHS = {{"variant", "layer", "split", "dataset", "name", "weights", "coordinator_address", "step", "rename"}}
refused = []
for module in {modules}:
    known = set(flags.FLAGS)
    importlib.import_module(module)
    for name in set(flags.FLAGS) - known:
        if name not in NO_PATHS:
            try:
                flags.FLAGS[name].parser.parse("hdfs://host/x")
                print(module, name, "takes it")
            except UserError as error:
                assert str(error).startswith(f"--{{name}}=hdfs://host/x is remote"), error
                refused.append(name)
            except (ValueError, TypeError):
                pass
        delattr(flags.FLAGS, name)
print(sorted(set(refused)))
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    paths = [
        "classes",
        "config",
        "data_dir",
        "images",
        "labels",
        "list",
        "mean",
        "neighbors",
        "output",
        "source",
        "sweep",
        "workdir",
    ]
    assert result.stdout == f"{paths}\n", result.stdout + result.stderr


def without_root() -> None:
    """Take from root the right to open what permissions forbid (prctl PR_CAPBSET_DROP, CAP_DAC_*)."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


FORBIDDEN = {
    "config file": ("summary", ["--config={}/c.py"], r"--config={}/c.py can't be read"),
    "flag file": ("summary", ["--flagfile={}/flags"], r"'{}/flags'; give a text file"),
    "workdir": ("evaluate", ["--workdir={}"], r"{}/config.json can't be read"),
    "data": ("main", [QUICKSTART, "--config.data.dir={}", "--workdir={}/w"], r"config.data.dir={} can't be read"),
    "images": ("predict", ["--workdir={}/w", "{}"], r"{} can't be read"),
    "source": ("prepare", ["--dataset=folder", "--source={}", "--data_dir={}/d"], r"{} can't be used"),
    "sweep's workdir": (
        "sweep",
        [QUICKSTART, "--sweep=configs/sweeps/learning_rate.py", "--workdir={}"],
        r"--workdir={}/learning_rate=0.02\+seed=0 can't be read",
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_folder_without_permission_is_named(name: str, tmp_path: Path) -> None:
    command, arguments, sentence = FORBIDDEN[name]
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0)
    result = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{command}", *(argument.format(folder) for argument in arguments)],
        cwd=ROOT,
        preexec_fn=without_root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == EXIT_USER_ERROR, result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(sentence.replace("{}", re.escape(str(folder))), lines[0]), result.stderr
    assert "Permission denied" in lines[0]


# Standard streams


def in_shell(redirection: str, script: str) -> subprocess.CompletedProcess:
    """Run a command whose `main` is this Python code."""
    program = f"from alexnet_jax import cli\ndef main(arguments):\n    {script}\ncli.run(main)\n"
    command = ["bash", "-c", f'exec "$@" {redirection}', "command", sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_place_for_files(closed: str, tmp_path: Path) -> None:
    """What is printed is lost; a checkpoint must not get the number of stdout or stderr."""
    script = f"print('x', flush=True); file = open({str(tmp_path / 'file')!r}, 'w'); file.write(str(file.fileno()))"
    result = in_shell(closed, script)
    assert result.returncode == 0, result.stderr
    assert int((tmp_path / "file").read_text()) > 2


def test_stdout_on_a_full_disk_ends_in_one_sentence(tmp_path: Path) -> None:
    """A limit on the size of files simulates it."""
    for script in ("print('x' * 100_000)", "print('x')"):
        result = in_shell(
            f">{tmp_path / 'output'}", f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (0, 0)); {script}"
        )
        assert_refused(result, r"The output can't be written \(File too large\); free some space, or send it elsewhere")


def test_a_path_that_is_not_utf_8_is_printed(tmp_path: Path) -> None:
    result = in_shell("", "print(chr(0xdce9))")
    assert (result.returncode, result.stdout) == (0, "\\udce9\n"), result.stderr
