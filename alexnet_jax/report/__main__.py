"""Draw the paper's figures for one run, as PNGs and as one page that contains them all.

    python -m alexnet_jax.report --workdir=DIR [--step=N|best|latest] [--data_dir=DIR] [--output=DIR]
        [--max_images=10000]

Learning curves, conv1's kernels by tower (figure 3), predictions and nearest neighbors (figure 4), and which classes
are confused. The page, `DIR/report/index.html`, needs no other file; `report.json` has its numbers. A run in progress
can be reported on: sections whose checkpoint or data set is missing say so in one sentence. While training uses the
GPU, run the report with `JAX_PLATFORMS=cpu`.
"""

import json
from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import printable

_WORKDIR = cli.define_path_flag("workdir", "the folder that training wrote to")
_STEP = cli.define_step_flag()
_DATA_DIR = cli.define_path_flag("data_dir", "where the data set is, if not where training found it")
_OUTPUT = cli.define_path_flag("output", "the folder to write to; by default `report` in the workdir")
_MAX_IMAGES = flags.DEFINE_integer("max_images", 10_000, "the most images to use of each split", lower_bound=1)
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Write the page and its figures."""
    cli.no_arguments(arguments)
    folder = cli.required(_WORKDIR)
    output = _OUTPUT.value or folder / "report"
    from alexnet_jax.report.contents import collect
    from alexnet_jax.report.page import page, write

    contents = collect(folder, _STEP.value, _DATA_DIR.value, _MAX_IMAGES.value)
    figures = {f"{section.name}.png": section.figure for section in contents.sections if section.figure is not None}
    numbers = {section.name: section.numbers for section in contents.sections if section.numbers}
    data = json.dumps({**contents.properties, **numbers}, indent=1) + "\n"
    html = page(*contents).encode(errors="xmlcharrefreplace")  # names from JSON may hold lone surrogates
    write(output, {**figures, "report.json": data.encode(), "index.html": html})
    for section in contents.sections:
        print(f"{section.title + ':':<32}{printable(' '.join(section.text))}")
    print(output / "index.html")


if __name__ == "__main__":
    cli.run(main)
