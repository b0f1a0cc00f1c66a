"""What all commands share: reading flags, and ending a user's mistake with one sentence and an exit status."""

import ast
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax import runtime, validation
from alexnet_jax.config import Config, field_types
from alexnet_jax.errors import UserError, print_error
from alexnet_jax.files import expanded, reading
from alexnet_jax.run import limits

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_CONFIG_FILE = re.compile(r"--?config(?:=(.*))?$")


def define_config_flag() -> flags.FlagHolder:
    """Defines --config and its overrides --config.section.field=value."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "the config file, such as configs/imagenet.py; --config.section.field=value overrides any field of it",
    )


def define_workdir_flag(help_text: str) -> flags.FlagHolder[str | None]:
    """Defines --workdir."""
    return flags.DEFINE_string("workdir", None, help_text)


def required(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that must be given; UserError if it was not."""
    if not flag.value:
        raise UserError(f"--{flag.name} is missing: give {flags.FLAGS[flag.name].help}.")
    return flag.value


def required_path(flag: flags.FlagHolder[str | None]) -> Path:
    """The path that a flag must give, with the home folder for `~`; UserError if it was not given."""
    return expanded(required(flag), f"--{flag.name}")


def required_paths(flag: flags.FlagHolder[str | None]) -> list[Path]:
    """The same for a flag that gives several, separated by commas."""
    return [expanded(path, f"--{flag.name}") for path in required(flag).split(",")]


def the_config(flag: flags.FlagHolder) -> Config:
    """The config of --config with its overrides, checked; UserError for what is wrong with it."""
    if flag.value is None:
        raise UserError("--config is missing: give a config file, for example --config=configs/quickstart.py.")
    if not isinstance(flag.value, Config):
        raise UserError(f"get_config() of --config must return an alexnet_jax.config.Config, not a {type(flag.value)}.")
    validation.validate(flag.value)
    return flag.value


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a command: `main` gets the arguments that are no flags. Heavy imports belong inside `main`.

    A UserError, from here or from anywhere in `main`, is printed as one sentence and ends the process with its status.
    """
    runtime.use_huge_pages()

    def guarded(argv: Sequence[str]) -> None:
        try:
            limits.allow_open_files()
            main(argv[1:])
            sys.stdout.flush()
        except UserError as error:
            _fail(error)
        except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse_flags)


def parse_weights(text: str, num_nets: int) -> tuple[float, ...]:
    """The weights of an ensemble's nets; UserError unless each net has one, none is negative and not all are 0."""
    try:
        weights = tuple(map(float, text.split(",")))
    except ValueError:
        weights = ()
    right = len(weights) == num_nets and all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if not right or not 0 < sum(weights) < math.inf:
        raise UserError(
            f"--weights={text} is not allowed with {num_nets} workdir{'s' if num_nets > 1 else ''}; give each one a "
            f"number of at least 0, not all of them 0, for example --weights={','.join(['1'] * num_nets)}."
        )
    return weights


def no_arguments(arguments: Sequence[str]) -> None:
    """UserError if there are arguments that are no flags."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: this command takes flags only; see --help.")


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        _check_config_file(argv)
        _check_overrides(argv)
        return flags.FLAGS(argv)
    except UserError as error:
        _fail(error)
    except flags.IllegalFlagValueError as error:
        _fail(UserError(_illegal_value(str(error))))
    except flags.Error as error:
        _fail(UserError(f"{str(error).splitlines()[0]}; see --help."))


def _fail(error: UserError) -> NoReturn:
    print_error(str(error))
    sys.exit(error.exit_status)


def _check_config_file(argv: Sequence[str]) -> None:
    """UserError if the config file does not exist or is no Python file of a config; absl would show a traceback."""
    for position, argument in enumerate(argv):
        if not (match := _CONFIG_FILE.match(argument)):
            continue
        name = match[1] if match[1] is not None else argv[position + 1] if position + 1 < len(argv) else ""
        check_python_file(f"--config={name}", Path(name.split(":", 1)[0]), "get_config", Path("configs/quickstart.py"))


def check_python_file(flag: str, path: Path, function: str, example: Path) -> None:
    """UserError unless `path`, which `flag` names, is a Python file that defines the function, as `example` does."""
    with reading(flag):
        exists = path.is_file()
    if not exists:
        there = sorted(str(file) for file in example.parent.glob("*.py"))
        hint = f"there are {', '.join(there)}" if there else "run from the project's folder, or give a full path"
        raise UserError(f"{flag}: there is no such file; {hint}.")
    try:
        code = ast.parse(path.read_text(), str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise UserError(f"{flag} is not a Python file that can be read: {error}.") from error
    if not any(isinstance(line, ast.FunctionDef) and line.name == function for line in code.body):
        raise UserError(f"{flag} defines no function {function}(); see {example}.")


def _check_overrides(argv: Sequence[str]) -> None:
    """UserError if an override names a field that does not exist, with the nearest name."""
    known = field_types()
    for argument in argv:
        if (match := _OVERRIDE.match(argument)) and match[1] not in known:
            raise UserError(f"{argument.splitlines()[0]}: {validation.unknown_field(match[1])}")


def _illegal_value(message: str) -> str:
    """A sentence for a flag whose value could not be read, in the words of the config where it is a config field."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
    if match and (declared := field_types().get(match[1])):
        return f"config.{match[1]}={match[2]!r} must be {validation.type_in_words(declared)}."
    return f"{message.splitlines()[0]}; see --help."
