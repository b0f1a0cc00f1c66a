"""Predicts what images show: the most probable classes according to a trained net or an ensemble.

    python -m alexnet_jax.predict --workdir=DIR[,DIR2,...] [--views=1|10] [--top=5] [--json] IMAGE|FOLDER ...

Images may have any size, colors and format; see docs/use.md. Unreadable ones are reported, the others are predicted,
and the exit status is 2.
"""

import json
from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import UserError

_WORKDIR = cli.define_paths_flag("workdir", "the folder of a trained net; for an ensemble several, separated by commas")
_VIEWS = flags.DEFINE_enum("views", "1", ["1", "10"], "views of each image that are averaged (see docs/use.md)")
_STEP = cli.define_step_flag()
_PRECISION = cli.define_precision_flag()
_PREPROCESSING = cli.define_preprocessing_flag()
_TOP = flags.DEFINE_integer("top", 5, "how many classes to show", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "print one JSON object per image")
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Print the predictions image by image, as the images are read."""
    folders = cli.required(_WORKDIR)
    if not arguments:
        raise UserError("no image was given; name images or folders of images after the flags.")
    from alexnet_jax.data.image_files import find_images
    from alexnet_jax.predict.batching import as_text, predict_files
    from alexnet_jax.run.restore import report_missing_views, restore

    files = find_images(arguments)
    nets = [
        restore(folder, _STEP.value, precision=_PRECISION.value, preprocessing=_PREPROCESSING.value)
        for folder in folders
    ]
    report_missing_views(nets, int(_VIEWS.value))
    broken: list[str] = []
    for prediction in predict_files(nets, files, int(_VIEWS.value), _TOP.value, broken):
        print(json.dumps(prediction) if _JSON.value else as_text(prediction), flush=True)
    if broken:
        raise UserError("\n".join(broken))


if __name__ == "__main__":
    cli.run(main)
