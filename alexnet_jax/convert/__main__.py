"""Import the weights of other frameworks, and export ours.

    python -m alexnet_jax.convert --source=FILE --workdir=DIR [--variant=...]
    python -m alexnet_jax.convert --workdir=DIR --export=npz|torchvision|safetensors|stablehlo|onnx --output=FILE

The first writes a workdir that all other commands take as if it had been trained; the second writes a net for other
programs. No bit of a weight changes either way. See docs/weights.md.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.convert.signatures import FORMATS, KINDS
from alexnet_jax.errors import UserError, printable

EXPORTS = ("npz", "torchvision", "safetensors", "stablehlo", "onnx")
_SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors"}
_WORKDIR = cli.define_path_flag("workdir", "the folder to write, or with --export the one to read")
_SOURCE = cli.define_path_flag("source", f"the file with the weights: .{', .'.join(KINDS)}")
_FORMAT = flags.DEFINE_enum("format", None, list(FORMATS), "the origin of the file; by default told by its content")
_VARIANT = flags.DEFINE_string("variant", None, "the net, such as caffe; by default detected from the file")
_CONFIG = cli.define_config_flag()
_CHANNELS = flags.DEFINE_enum("channels", None, ["rgb", "bgr"], "the net's color order; by default the file's")
_MEAN = cli.define_path_flag("mean", "the mean image or color: Caffe's .npy or .binaryproto, or a statistics.npz")
_LABELS = cli.define_path_flag("labels", "a file with class names, one per line, if they are not ImageNet's")
_MISSING = flags.DEFINE_enum("missing", "refuse", ["refuse", "initialize"], "what to do if the file lacks layers")
_RENAME = flags.DEFINE_multi_string(
    "rename", [], "THEIRS=OURS: a layer's or array's name in the file, and ours or none"
)
_EXPORT = flags.DEFINE_enum("export", None, EXPORTS, "the form in which to write the net of --workdir")
_OUTPUT = cli.define_path_flag("output", "the file to write with --export")
_BATCH = flags.DEFINE_integer(
    "batch", None, "how many images an onnx or stablehlo takes; by default any", lower_bound=1
)
_OPSET = flags.DEFINE_integer(
    "opset", None, "ONNX's operator set, 9 to 21; by default 17", lower_bound=9, upper_bound=21
)
_STEP = cli.define_step_flag()
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Import or export, and print what was done."""
    cli.no_arguments(arguments)
    if bool(_SOURCE.value) == bool(_EXPORT.value):
        raise UserError("give either --source=FILE, to import weights, or --export=FORM, to export a net.")
    folder = cli.required(_WORKDIR)
    if _SOURCE.value:
        _import(cli.required(_SOURCE), folder)
    else:
        _export(folder, str(_EXPORT.value), cli.required(_OUTPUT))


def _import(path: Path, folder: Path) -> None:
    if wrong := [text for text in _RENAME.value if "=" not in text[1:]]:
        raise UserError(f"--rename={wrong[0]} must be THEIRS=OURS, for example --rename=fc8_flickr=fc8.")
    if _VARIANT.value and _CONFIG.value:
        raise UserError("give either --variant or --config: a config names its variant itself.")
    from alexnet_jax.convert.importing import Source, import_weights

    source = Source(
        path=path,
        format=_FORMAT.value,
        variant=_VARIANT.value,
        config=cli.the_config(_CONFIG) if _CONFIG.value else None,
        bgr=None if _CHANNELS.value is None else _CHANNELS.value == "bgr",
        mean=_MEAN.value,
        labels=_LABELS.value,
        missing=_MISSING.value,
        renames={theirs: ours for theirs, _, ours in (text.rpartition("=") for text in _RENAME.value)},
    )
    for line in import_weights(source, folder):
        print(printable(line))
    print(f"{folder} is ready: evaluate, predict, report and fine-tuning take it as --workdir or config.init_from.")


def _export(folder: Path, form: str, path: Path) -> None:
    suffix = _SUFFIXES.get(form, path.suffix)
    if path.suffix != suffix:
        hint = f"; use --export=safetensors to write {path.name}" if path.suffix == ".safetensors" else ""
        raise UserError(f"--output={path} must end in {suffix} with --export={form}{hint}.")
    if _BATCH.value and form not in ("onnx", "stablehlo"):
        raise UserError(f"--batch={_BATCH.value} is for --export=onnx and stablehlo; a file of weights fits any batch.")
    if _OPSET.value and form != "onnx":
        raise UserError(f"--opset={_OPSET.value} is for --export=onnx; leave it out.")
    from alexnet_jax.convert.exporting import export
    from alexnet_jax.run.restore import restore

    for line in export(restore(folder, _STEP.value), form, path, _BATCH.value, _OPSET.value):
        print(line)


if __name__ == "__main__":
    cli.run(main)
