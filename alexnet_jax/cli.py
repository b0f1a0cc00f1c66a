"""What all commands share: flags, and one sentence and an exit status for a user's mistake."""

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

from alexnet_jax import IS_COMMAND, runtime, signals, validation
from alexnet_jax.config import Config, field_types, unknown_field
from alexnet_jax.errors import UserError, print_error
from alexnet_jax.files import expanded, reading

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_CONFIG_FILE = re.compile(r"--?config(?:=(.*))?$")


def define_config_flag() -> flags.FlagHolder:
    """Define --config and its overrides --config.section.field=value."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "the config file, such as configs/imagenet.py; --config.section.field=value overrides any field of it",
    )


def define_workdir_flag(help_text: str) -> flags.FlagHolder[str | None]:
    """Define --workdir."""
    return flags.DEFINE_string("workdir", None, help_text)


def required(flag: flags.FlagHolder[str | None]) -> str:
    """Return the value of a required flag; UserError if it was not given."""
    if not flag.value:
        raise UserError(f"--{flag.name} is missing: give {flags.FLAGS[flag.name].help}.")
    return flag.value


def required_path(flag: flags.FlagHolder[str | None]) -> Path:
    """Return the path in a required flag, with the home folder for `~`; UserError if it was not given."""
    return expanded(required(flag), f"--{flag.name}")


def required_paths(flag: flags.FlagHolder[str | None]) -> list[Path]:
    """Return the paths in a required flag, which commas separate; UserError if it was not given."""
    return [expanded(path, f"--{flag.name}") for path in required(flag).split(",")]


def the_config(flag: flags.FlagHolder) -> Config:
    """Return the config of --config with its overrides; UserError if it is missing or has faults."""
    if flag.value is None:
        raise UserError("--config is missing: give a config file, for example --config=configs/quickstart.py.")
    if not isinstance(flag.value, Config):
        raise UserError(f"get_config() of --config must return an alexnet_jax.config.Config, not a {type(flag.value)}.")
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


def check_python_file(flag: str, path: Path, function: str, example: Path) -> None:
    """Raise UserError unless `path`, given by `flag`, is a Python file that defines the function, as `example` does."""
    with reading(flag):
        if not path.is_file():
            others = ", ".join(sorted(map(str, example.parent.glob("*.py"))))
            hint = f"there are {others}" if others else "run this from the project's folder, or give a full path"
            raise UserError(f"{flag}: there is no such file; {hint}.")
        text = path.read_bytes()
    try:
        code = ast.parse(text, str(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{flag} is not a Python file: {error}.") from error
    if not any(isinstance(line, ast.FunctionDef) and line.name == function for line in code.body):
        raise UserError(f"{flag} defines no function {function}(); see {example}.")


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command: `main` gets the arguments other than flags. Heavy imports belong inside `main`.

    A UserError, from parsing flags or from `main`, is printed as one sentence and ends the process with its status.
    """

    def guarded(argv: Sequence[str]) -> None:
        try:
            runtime.allow_open_files()
            main(argv[1:])
            sys.stdout.flush()
        except UserError as error:
            _fail(error)
        except BrokenPipeError:  # the program that reads our output, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    logging.set_verbosity(logging.WARNING)
    try:
        app.run(guarded, flags_parser=_parse_flags)
    finally:
        if IS_COMMAND:
            signals.leave()


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        _check_arguments(argv)
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


def _check_arguments(argv: Sequence[str]) -> None:
    """Raise UserError for a config file or an override that absl would answer with a traceback."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := _CONFIG_FILE.match(argument):
            name = following if match[1] is None else match[1]
            check_python_file(
                f"--config={name}", Path(name.split(":", 1)[0]), "get_config", Path("configs/quickstart.py")
            )
        elif (match := _OVERRIDE.match(argument)) and match[1] not in field_types():
            raise UserError(f"{argument.splitlines()[0]}: {unknown_field(match[1])}")


def _illegal_value(message: str) -> str:
    """Return a sentence for a flag whose value can't be parsed, with the type if it is a config field."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
    if match and (declared := field_types().get(match[1])):
        return f"config.{match[1]}={match[2]!r} must be {validation.type_in_words(declared)}."
    return f"{message.splitlines()[0]}; see --help."
