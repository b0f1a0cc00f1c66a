"""Configs: any value that is typed arrives as it is, anything else is refused; a config survives its file."""

import ast
import copy
import json
import typing

import pytest
from fuzzing.runs import parse_config
from hypothesis import given
from hypothesis import strategies as st

from alexnet_jax.config import Config, differences, field_types, set_field, to_dict, unknown_field
from alexnet_jax.errors import UserError
from alexnet_jax.sweep.runs import override_flags
from alexnet_jax.validation import faults, from_dict
from configs import quickstart

TYPES = field_types()
CHOICES = ("paper", "caffe", "none", "first", "tanh", "inverted", "conv3", "raw", "channel", "bfloat16", "lars")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))  # what a command line can hold
VALUES = {
    int: st.integers(-1, 16) | st.integers(-(2**70), 2**70),
    float: st.sampled_from([0.0, 0.5, 1.0, 1e-3]) | st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.sampled_from(CHOICES) | TEXT,
    tuple[float, ...]: st.lists(st.floats(0, 1) | st.floats(-1e6, 1e6), max_size=3).map(tuple),
    tuple[str, ...]: st.lists(st.sampled_from(["conv1", "fc8"]) | TEXT, max_size=3).map(tuple),
}


@st.composite
def typed(draw) -> dict:
    """Values for some fields, each of the declared type; many of them are not allowed."""
    names = draw(st.lists(st.sampled_from(list(TYPES)), max_size=4, unique=True))
    return {name: draw(VALUES[TYPES[name]]) for name in names}


def with_fields(config: Config, values: dict) -> Config:
    config = copy.deepcopy(config)
    for name, value in values.items():
        set_field(config, name, value)
    return config


def is_typed(value, declared) -> bool:
    if typing.get_origin(declared) is tuple:
        return type(value) is tuple and all(is_typed(item, typing.get_args(declared)[0]) for item in value)
    return type(value) in ((int, float) if declared is float else (declared,))


@given(typed())
def test_values_that_are_typed_arrive_as_they_are_or_are_refused_for_what_they_are(values):
    """By the flags that a sweep gives its runs."""
    expected = with_fields(quickstart.get_config(), values)
    if wrong := faults(expected):
        with pytest.raises(UserError) as refusal:
            parse_config(override_flags(values))
        assert str(refusal.value).split("\n") == wrong
    else:
        assert parse_config(override_flags(values)) == expected


@given(st.lists(st.tuples(st.sampled_from(list(TYPES)), st.sampled_from(["1", "0.5", "(0.5,)"]) | TEXT), max_size=3))
def test_any_text_becomes_what_is_declared_or_is_refused(overrides):
    config, sentences = quickstart.get_config(), []
    try:
        config = parse_config([f"--config.{name}={text}" for name, text in overrides])
    except UserError as refusal:
        sentences = str(refusal).split("\n")
    assert all(sentence.startswith("config.") for sentence in sentences)
    changed = {name: value for name, (value, _) in differences(config, quickstart.get_config()).items()}
    last = dict(overrides)
    assert set(changed) <= set(last)
    for name, value in changed.items():
        assert is_typed(value, TYPES[name])
        if TYPES[name] in (int, float):
            assert value == ast.literal_eval(last[name].strip())
        elif TYPES[name] is str:
            assert value == last[name]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("data.batch_size", "'batch_size'"),
        ("evl.batch_size", "'eval.batch_size'"),
        ("optimizer.lr", "'optimizer.learning_rate'"),
        ("lr", "'optimizer.learning_rate'"),
        ("eval.every_steps", "'eval.every_epochs'"),
        ("every_epochs", "'eval.every_epochs' or 'checkpoint.every_epochs'"),
        ("modl.variant", "'model.variant'"),
        ("optimizer.weight_decy", "'optimizer.weight_decay'"),
    ],
)
def test_a_wrong_field_suggests_the_field_that_is_meant(wrong: str, near: str) -> None:
    assert unknown_field(wrong) == f"the config has no field {wrong!r}; did you mean {near}?"


@pytest.mark.parametrize(("wrong", "listed"), [("ema_decay", "seed, "), ("optimizer.ema_decay", "optimizer.rule, ")])
def test_where_nothing_is_near_the_fields_are_listed(wrong: str, listed: str) -> None:
    sentence = unknown_field(wrong)
    assert sentence.startswith(f"the config has no field {wrong!r}; the fields are {listed}")
    assert ("model.variant" in sentence) == ("." not in wrong)


@given(typed())
def test_a_config_survives_its_file(values):
    config = with_fields(Config(), values)
    assert from_dict(json.loads(json.dumps(to_dict(config))), "config.json") == config
