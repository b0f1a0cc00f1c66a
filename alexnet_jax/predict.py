"""Says what images show: the most probable classes of a trained net, or of an ensemble.

    python -m alexnet_jax.predict --workdir=DIR[,DIR2,...] [--views=1|10] [--top=5] [--json] IMAGE|FOLDER ...

Images may have any size, colors and format; see docs/use.md. One that can't be read is named, the others are
predicted, and the exit status is 2.
"""

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from alexnet_jax.restored import RestoredNet

_WORKDIR = cli.define_workdir_flag("the folder of a trained net; several, separated by commas, are an ensemble")
_VIEWS = flags.DEFINE_enum("views", "1", ["1", "10"], "views of each image; probabilities are averaged")
_STEP = flags.DEFINE_integer("step", None, "the checkpoint; by default the latest", lower_bound=0)
_TOP = flags.DEFINE_integer("top", 5, "how many classes are shown", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "print a JSON object a line for each image")
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Predicts image after image, as they are read."""
    folders = [Path(name).expanduser() for name in cli.required(_WORKDIR).split(",")]
    if not arguments:
        raise UserError("no image was given: name images, or folders of images, behind the flags.")
    from alexnet_jax.data.image_files import find_images
    from alexnet_jax.restored import restore

    files = find_images(arguments)
    nets = [restore(folder, _STEP.value) for folder in folders]
    broken: list[str] = []
    for prediction in predict_files(nets, files, int(_VIEWS.value), _TOP.value, broken):
        print(json.dumps(prediction) if _JSON.value else as_text(prediction), flush=True)
    if broken:
        raise UserError("\n".join(broken))


def predict_files(
    nets: Sequence["RestoredNet"], files: Sequence[Path], views: int, top: int, broken: list[str]
) -> Iterator[dict[str, Any]]:
    """Of each file that can be read: {"image", "predictions": [{"class", "label", "probability"}, ...]}.

    Args:
      nets: one, or those of an ensemble.
      files: the images.
      views: 1 or 10.
      top: how many classes, most probable first.
      broken: gets a sentence for each of the other files.
    """
    import numpy as np

    from alexnet_jax import inference

    facts, mesh = nets[0].facts, nets[0].mesh
    predict = inference.create_ensemble(nets, views)
    batch_size = inference.batch_size_for(len(files), mesh)
    names: deque[Path] = deque()  # of the images that are on their way through the net
    batches = inference.in_batches(inference.readable(files, nets[0], names, broken), batch_size)
    if not sys.stdout.isatty():  # there what is told shows how far it is
        batches = inference.with_progress(batches, len(files), len)
    for images in batches:
        for log_probabilities in inference.run(predict, mesh, images, batch_size):
            best = np.argsort(-log_probabilities, kind="stable")[:top]
            classes = [
                {
                    "class": facts.class_names[number],
                    "label": facts.label_names[number],
                    "probability": float(np.exp(log_probabilities[number])),
                }
                for number in best
            ]
            yield {"image": str(names.popleft()), "predictions": classes}


def as_text(prediction: dict[str, Any]) -> str:
    """The lines for people."""
    lines = [prediction["image"]]
    for row in prediction["predictions"]:
        label = "" if row["label"] == row["class"] else f"  ({row['label']})"
        lines.append(f"  {row['probability']:7.2%}  {row['class']}{label}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
