"""What all commands share: flags, and one sentence and an exit status for a user's mistake."""

import math
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax import IS_COMMAND, runtime, signals, validation
from alexnet_jax.config import Config, field_types, unknown_field
from alexnet_jax.errors import UserError, print_error
from alexnet_jax.files import expanded, reading

_T = TypeVar("_T")
_arguments: list[str] = []  # of this process, once they are parsed
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")


class _ConfigParser(flags.ArgumentParser):
    """Turns FILE, or FILE:ARGUMENT, into what `get_config` of that file returns."""

    def parse(self, argument: str) -> Config:
        expanded(argument, "--config")  # gs://bucket/file.py has a colon too
        name, *arguments = argument.split(":", 1)
        path, example = expanded(name, "--config"), Path("configs/quickstart.py")
        config = call_function(f"--config={name}", path, "get_config", example, *arguments)
        if not isinstance(config, Config):
            raise UserError(f"get_config() of --config must return an alexnet_jax.config.Config, not a {type(config)}.")
        return config


class _PathParser(flags.ArgumentParser):
    """Turns what a user wrote into a path."""

    def __init__(self, flag: str):
        self._flag = flag

    def parse(self, argument: str) -> Path:
        return expanded(argument, self._flag)


class _PathsParser(flags.ArgumentParser):
    """Turns what a user wrote into paths, which commas separate, unless all of it is one that exists."""

    def __init__(self, flag: str):
        self._flag = flag

    def parse(self, argument: str) -> list[Path]:
        whole = expanded(argument, self._flag)
        return [whole] if os.path.exists(whole) else [expanded(path, self._flag) for path in argument.split(",")]


class _StepParser(flags.ArgumentParser):
    """Turns the number of a step into an int; "best" and "latest" stay."""

    syntactic_help = "a step, best or latest"

    def parse(self, argument: str | int) -> int | str:
        text = str(argument)
        if text in ("best", "latest"):
            return text
        if text.isdecimal():
            return int(text)
        raise ValueError("it must be the number of a step, best or latest")


def define_config_flag() -> flags.FlagHolder:
    """Define --config and its overrides --config.section.field=value."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "the config file, such as configs/imagenet.py; --config.section.field=value overrides any field of it",
        sys_argv=_arguments,  # not sys.argv, whose --flagfile it would read right here
    )
    flags.FLAGS["config"].parser = _ConfigParser()  # ml_collections' own ends in tracebacks
    return holder


def define_path_flag(name: str, help_text: str) -> flags.FlagHolder[Path | None]:
    """Define a flag for a file or folder; parsing it raises UserError as `files.expanded` does."""
    return flags.DEFINE(_PathParser(f"--{name}"), name, None, help_text, serializer=flags.ArgumentSerializer())


def define_paths_flag(name: str, help_text: str) -> flags.FlagHolder[list[Path] | None]:
    """Define a flag for several files or folders, separated by commas; UserError as above."""
    return flags.DEFINE(_PathsParser(f"--{name}"), name, None, help_text, serializer=flags.ArgumentSerializer())


def define_step_flag() -> flags.FlagHolder:
    """Define --step, which checkpoint to take: the number of a step, "best" or "latest"."""
    help_text = "the checkpoint: a step, best (the lowest top-1 error when the training evaluated it) or latest"
    return flags.DEFINE(_StepParser(), "step", "latest", help_text)


def define_precision_flag() -> flags.FlagHolder[str | None]:
    """Define --precision, in which a trained net computes."""
    choices = ["float32", "bfloat16"]
    return flags.DEFINE_enum("precision", None, choices, "of the computation; by default as trained")


def define_preprocessing_flag() -> flags.FlagHolder[str | None]:
    """Define --preprocessing, whose way of resizing and cropping pictures is taken."""
    help_text = "whose way of resizing and cropping pictures; by default that of the net's origin (docs/use.md)"
    return flags.DEFINE_enum("preprocessing", None, ["paper", "torchvision", "caffe"], help_text)


def required(flag: flags.FlagHolder[_T | None]) -> _T:
    """Return the value of a required flag; UserError if it was not given."""
    if not flag.value:
        raise UserError(f"--{flag.name} is missing: give {flags.FLAGS[flag.name].help}.")
    return flag.value


def the_config(flag: flags.FlagHolder) -> Config:
    """Return the config of --config with its overrides; UserError if it is missing or has faults."""
    if flag.value is None:
        raise UserError("--config is missing: give a config file, for example --config=configs/quickstart.py.")
    validation.validate(flag.value)
    return flag.value


def no_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError if there are arguments other than flags."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: this command takes flags only; see --help.")


def parse_weights(text: str, num_nets: int) -> tuple[float, ...]:
    """Parse the weights of an ensemble's nets: one number per net, none below 0, not all 0; UserError otherwise."""
    try:
        weights = tuple(map(float, text.split(",")))
    except ValueError:
        weights = ()
    valid = len(weights) == num_nets and all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if not valid or not 0 < sum(weights) < math.inf:
        raise UserError(
            f"--weights={text} is not allowed with {num_nets} workdir{'s' if num_nets > 1 else ''}; give each one a "
            f"number of at least 0, not all of them 0, for example --weights={','.join(['1'] * num_nets)}."
        )
    return weights


def call_function(flag: str, path: Path, function: str, example: Path, *arguments: str) -> Any:
    """Run the Python file `path`, given by `flag`, and return what its function returns.

    UserError if there is no such file, it defines no such function (as `example` does), or either raises an error.
    """
    with reading(flag):
        if not path.is_file():
            others = ", ".join(sorted(map(str, example.parent.glob("*.py"))))
            hint = f"there are {others}" if others else "run this from the project's folder, or give a full path"
            raise UserError(f"{flag}: there is no such file; {hint}.")
    try:
        found = runpy.run_path(str(path)).get(function)
        if not callable(found):
            raise UserError(f"{flag} defines no function {function}(); see {example}.")
        return found(*arguments)
    except UserError:
        raise
    except Exception as error:  # the file is a program, and may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0] + (f", in line {lines[-1]}" if lines else "")
        raise UserError(f"{flag} can't be run as a Python file ({reason}); correct it, or see {example}.") from error


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command: `main` gets the arguments other than flags. Heavy imports belong inside `main`.

    A UserError, from parsing flags or from `main`, is printed as one sentence and ends the process with its status.
    """
    runtime.open_standard_streams()  # as `python -m` has done already, and a program that calls this has not

    def guarded(argv: Sequence[str]) -> None:
        try:
            runtime.allow_open_files()
            main(argv[1:])
            sys.stdout.flush()
        except UserError as error:
            _fail(error)
        except BrokenPipeError:  # the program that reads our output, such as `head`, has ended
            _discard_stdout()
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if isinstance(error, PermissionError) and error.filename:
                _fail(UserError(f"{error.filename} can't be used ({error.strerror}); check who owns it and its mode."))
            _check_stdout()
            raise

    logging.set_verbosity(logging.WARNING)
    try:
        app.run(guarded, flags_parser=_parse_flags)
    finally:
        if IS_COMMAND:
            signals.leave()


def _check_stdout() -> None:
    """Fail with a sentence if what was printed can't be written, for example to a full disk."""
    try:
        print(flush=True)  # what failed may be lost, so try again
    except OSError as error:
        _discard_stdout()
        _fail(UserError(f"The output can't be written ({error.strerror}); free some space, or send it elsewhere."))


def _discard_stdout() -> None:
    """Let no more be written to stdout: Python would try it again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        _arguments[:] = _with_flagfiles(argv)
        _check_overrides(_arguments)
        return flags.FLAGS(_arguments)
    except UserError as error:
        _fail(error)
    except flags.IllegalFlagValueError as error:
        _fail(UserError(_illegal_value(str(error))))
    except flags.Error as error:
        _fail(UserError(f"{str(error).splitlines()[0]}; see --help."))


def _fail(error: UserError) -> NoReturn:
    print_error(str(error))
    sys.exit(error.exit_status)


def _with_flagfiles(argv: Sequence[str]) -> list[str]:
    """Return the arguments with those of --flagfile in its place; UserError if one can't be read."""
    try:
        return [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
    except flags.CantOpenFlagFileError as error:
        raise UserError(f"{str(error).removeprefix('ERROR:: ')}; give a text file with one flag per line.") from error
    except UnicodeDecodeError as error:
        raise UserError("--flagfile is not a text file; it must hold one flag per line.") from error


def _check_overrides(arguments: Sequence[str]) -> None:
    """Raise UserError for the override of an unknown field, which ml_collections would answer with a traceback."""
    for argument in arguments:
        if (match := _OVERRIDE.match(argument)) and match[1] not in field_types():
            raise UserError(f"{argument.splitlines()[0]}: {unknown_field(match[1])}")


def _illegal_value(message: str) -> str:
    """Return a sentence for a flag whose value can't be parsed, with the type if it is a config field."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
    if match and (declared := field_types().get(match[1])):
        return f"config.{match[1]}={match[2]!r} must be {validation.type_in_words(declared)}."
    return f"{message.splitlines()[0]}; see --help."
