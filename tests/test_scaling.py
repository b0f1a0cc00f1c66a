"""What layouts send and how long that should take: the layer table against numbers written out by hand."""

import pytest

from alexnet_jax.config import Config
from benchmarks.collectives import Collective, collectives
from benchmarks.layouts import Layout, transfers
from benchmarks.scaling import Device, step_time
from configs import one_weird_trick, paper

PROGRAM = """\
HloModule jit_train_step

%body.1 (arg: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %all-gather.1 = f32[4,8]{1,0} all-gather(%x), channel_id=1, replica_groups={{0,1},{2,3}}, dimensions={1}
  ROOT %tuple = (s32[], f32[4,8]{1,0}) tuple(%i, %all-gather.1)
}

%condition.1 (arg: (s32[], f32[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.2 (p: f32[4,4]) -> f32[2,8] {
  %while = (s32[], f32[4,8]{1,0}) while(%init), condition=%condition.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"3"}}
  %all-reduce = (f32[10]{0}, bf16[2,2]{1,0}) all-reduce(%a, %b), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
  %permute = f32[6]{0} collective-permute(%c), channel_id=3, source_target_pairs={{0,1},{2,3}}
  ROOT %scatter = f32[2,8]{1,0} reduce-scatter(%d), replica_groups=mesh['a'=2,'b'=2] {'a','b'}, dimensions={0}
}
"""


def test_reads_kinds_sizes_groups_and_loops() -> None:
    found = collectives(PROGRAM)
    assert sorted(found) == [
        Collective("all-gather", 128, 2, times=3),
        Collective("all-reduce", 8, 4),
        Collective("all-reduce", 40, 4),
        Collective("collective-permute", 24, 2),
        Collective("reduce-scatter", 4 * 64, 4),
    ]
    assert sum(each.sent for each in found) == 3 * 64 + 1.5 * 48 + 24 + 0.75 * 256


def test_a_loop_of_unknown_length_that_sends_is_no_count() -> None:
    with pytest.raises(ValueError, match="unknown length"):
        collectives(PROGRAM.replace("known_trip_count", "trip_count"))


def total(config: Config, layout: Layout) -> float:
    """Bytes that a device sends in a step."""
    return sum(each.sent for each in transfers(config, layout))


def test_the_towers_of_the_paper_send_what_section_3_5_says() -> None:
    """Of each image, there and back, half of what conv3, fc6 and fc7 see; and 1,000 logits, added up."""
    assert total(paper.get_config(), Layout(tower=2)) == 128 * 4 * (13 * 13 * 256 + 6 * 6 * 256 + 4096 + 1000)


def test_parts_of_the_batch_add_all_parameters_up() -> None:
    parameters, logged = 60_965_224, 3
    assert total(paper.get_config(), Layout(data=2)) == 4 * (parameters + logged)
    assert total(paper.get_config(), Layout(data=2, shard_momentum=True)) == 4 * (parameters + logged)
    halves = (parameters - 1000) // 2 + 1000
    towers = 64 * 4 * (13 * 13 * 256 + 6 * 6 * 256 + 4096 + 1000)
    assert total(paper.get_config(), Layout(data=2, tower=2)) == 4 * (halves + logged) + towers


def test_a_hybrid_sends_activations_instead_of_the_units_gradients() -> None:
    """Section 4 of "One weird trick": 2,469,696 parameters of convolutions; 9,216 and 4,096 activations per image."""
    activations = 2 * (9216 + 4096) + 2 * 1000  # there and back; logits are added up, and their gradients gathered
    reduced = 2_469_696 + 1000 + 3  # and the classifier's biases, and what is logged
    expected = 7 / 8 * 4 * (2 * reduced + 128 * activations)
    assert total(one_weird_trick.get_config(), Layout(data=8, shard_fully_connected=True)) == expected


def test_time_is_compute_update_and_transfers() -> None:
    device = Device(flops=1e12, memory=1e11, link=1e9, latency=1e-3)
    config = paper.get_config()
    one = step_time(config, Layout(), device)
    assert one.communication == 0
    assert one.compute == pytest.approx(128 * (6 * 724_406_816 - 2 * 105_415_200) / 1e12)
    assert one.update == pytest.approx(5 * 4 * 60_965_224 / 1e11)
    towers = step_time(config, Layout(tower=2), device)
    assert towers.compute == one.compute / 2
    assert towers.update == one.update / 2
    sent = total(config, Layout(tower=2))
    assert towers.communication == pytest.approx(sent / 1e9 + 7e-3)  # three there and back, and the logits
    split = step_time(config, Layout(data=4, shard_momentum=True), device)
    assert split.update == one.update / 4
