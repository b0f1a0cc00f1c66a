"""When a training evaluates and saves; and which times of a run may still change."""

from fractions import Fraction

import pytest

from alexnet_jax.config import Config, set_field
from alexnet_jax.plan import Plan, fractions_kept, same_until

IMAGENET = 1_281_167


def events(due, num_steps: int) -> list[int]:
    return [step for step in range(1, num_steps + 1) if due(step)]


def plan_of(evaluate: float, save: float, num_examples: int = IMAGENET, **fields) -> Plan:
    config = Config(**fields)
    config.eval.every_epochs, config.checkpoint.every_epochs = evaluate, save
    return Plan.from_config(config, num_examples)


@pytest.mark.parametrize(("evaluate", "save"), [(1.0, 0.5), (1.0, 1 / 3), (2.0, 0.1), (0.3, 0.1), (1.0, 1.0)])
def test_every_evaluation_falls_on_a_saved_step_if_its_period_is_a_multiple(evaluate, save):
    """Rounded one by one, half of ImageNet's epochs of 10,009 steps are 5,005 steps: none of 90 evaluations fits."""
    plan = plan_of(evaluate, save, num_epochs=4.0)
    evaluations, saves = events(plan.evaluation_due, plan.num_steps), events(plan.save_due, plan.num_steps)
    assert set(evaluations) <= set(saves)
    assert (len(evaluations), len(saves)) == (pytest.approx(4 / evaluate, abs=1), pytest.approx(4 / save, abs=1))


def test_events_stay_with_their_epochs():
    """A period in whole steps would be 0.117 steps too short each time."""
    plan = plan_of(1.0, 0.5, num_epochs=90.0)
    expected = [round(epoch * Fraction(IMAGENET, 128)) for epoch in range(1, 91)]
    assert all(plan.evaluation_due(step) and not plan.evaluation_due(step + 1) for step in expected)
    assert plan.num_steps == expected[-1] == 900_821


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1e-9, [1, 2, 3, 4, 5]),  # at most once in a step
        (0.25, [1, 3, 4, 5]),  # of 1.25 steps: 1, 3 (2.5), 4 (3.75), 5
        (0.5, [3, 5]),  # 2.5 counts up
        (7.0, [5]),  # always at the end
    ],
)
def test_small_sets(every, expected):
    plan = plan_of(every, every, num_examples=50, batch_size=10, num_epochs=1.0)
    assert events(plan.evaluation_due, 5) == events(plan.save_due, 5) == expected
    assert plan_of(every, every, num_examples=5, batch_size=1000, num_epochs=1.0).evaluation_due(1)


# What may change. A run of 10 epochs of 100 steps, 500 of which are done.


def run_of(**changes) -> Config:
    config = Config(batch_size=10, num_epochs=10.0)
    config.optimizer.drops = config.optimizer.bias_drops = (0.6, 0.8)
    for name, value in changes.items():
        set_field(config, name.replace("__", "."), value)
    return config


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"num_epochs": 12.0}, True),  # the first drop, at step 720, is still to come
        ({"num_epochs": 4.0}, False),  # there are more steps than that
        ({"num_epochs": 8.0}, False),  # the first drop would have been at step 480
        ({"num_epochs": 8.0, "optimizer__drops": (0.75, 1.0), "optimizer__bias_drops": (0.75, 1.0)}, True),
        ({"optimizer__drops": (0.5, 0.8)}, True),
        ({"optimizer__drops": (0.499, 0.8)}, False),
        ({"optimizer__bias_drops": (0.499, 0.8)}, False),
        ({"optimizer__conv1_drops": (0.499,)}, False),
        ({"optimizer__warmup": 0.1}, False),
        ({"optimizer__conv1_frozen_from": 0.9}, False),  # the optimizer's state would have another form
        ({"data__color_noise_until": 0.5}, True),
        ({"data__color_noise_until": 0.499}, False),
    ],
)
def test_only_times_that_are_still_to_come_may_change(changes, same):
    assert same_until(500, run_of(), run_of(**changes), num_examples=1000) is same


@pytest.mark.parametrize(("schedule", "same"), [("drops", True), ("polynomial", False)])
def test_kept_fractions_keep_every_step(schedule, same):
    times = {"optimizer__warmup": 0.05, "optimizer__drops": (0.3, 1 / 3), "optimizer__conv1_frozen_from": 0.4}
    earlier = run_of(optimizer__schedule=schedule, data__color_noise_until=0.45, **times)
    longer = run_of(optimizer__schedule=schedule, num_epochs=17.0, **times)
    assert not same_until(500, earlier, longer, num_examples=1000)
    kept = fractions_kept(earlier, 17.0)
    assert set(kept) == {
        *("optimizer.warmup", "optimizer.drops", "optimizer.bias_drops", "optimizer.conv1_frozen_from"),
        "data.color_noise_until",
    }
    for name, value in kept.items():
        set_field(longer, name, value)
    assert same_until(500, earlier, longer, num_examples=1000) is same
