"""Orders of the data: whole episodes, groups of ticks, streams, stages."""

import numpy as np
import pytest
import torch

from embodied.core.errors import ConfigError
from embodied.data.orders import build_order
from embodied.data.segments import SegmentConfig, SegmentDataset

LENGTHS = [np.array([5, 9, 7]), np.array([4, 30])]


def rows(order, step, stage=0):
    return [
        [(p.dataset, p.episode, np.arange(100)[p.ticks].tolist()) for p in row]
        for row in order.rows(step, stage)
    ]


def test_groups_are_distinct_ticks_in_the_order_of_time():
    order = build_order("group", LENGTHS, [], 6, 6, seed=1)
    drawn = [row for step in range(30) for row in rows(order, step)]
    gaps = set()
    for ((dataset, episode, ticks),) in drawn:
        length = int(LENGTHS[dataset][episode])
        assert ticks == sorted(set(ticks)) and ticks[-1] < length
        assert len(ticks) == min(6, length)
        gaps |= set(np.diff(ticks).tolist())
    assert len(gaps) > 3  # not a window
    assert rows(build_order("group", LENGTHS, [], 6, 6, seed=1), 17) == rows(order, 17)
    assert rows(build_order("group", LENGTHS, [], 6, 6, seed=2), 17) != rows(order, 17)


def test_streams_run_through_whole_episodes_without_a_gap():
    order = build_order("stream", LENGTHS, [], 2, 6, seed=1)
    for row in range(2):
        pieces = [piece for step in range(40) for piece in rows(order, step)[row]]
        assert sum(len(ticks) for _, _, ticks in pieces) == 40 * 6
        at = 0
        for index, (dataset, episode, ticks) in enumerate(pieces):
            assert ticks == list(range(at, at + len(ticks)))
            at += len(ticks)
            ends = at == LENGTHS[dataset][episode]
            if index + 1 < len(pieces):
                begins = pieces[index + 1][2][0] == 0
                assert ends == begins
                assert begins or pieces[index + 1][:2] == (dataset, episode)
            at = 0 if ends else at
    assert rows(order, 3)[0] != rows(order, 3)[1]
    assert rows(build_order("stream", LENGTHS, [], 2, 6, seed=1), 33) == rows(order, 33)


def test_stages_have_their_own_weights():
    order = build_order("segments", LENGTHS, [[1.0, 0.0], [0.0, 1.0]], 8, 0, seed=1)
    for step in range(5):
        assert {d for ((d, _, _),) in rows(order, step, 0)} == {0}
        assert {d for ((d, _, _),) in rows(order, step, 1)} == {1}
    with pytest.raises(ConfigError, match="a stream's memory goes on"):
        build_order("stream", LENGTHS, [[1.0, 0.0], [0.0, 1.0]], 8, 4, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "groups"}, "unknown order of the data 'groups'; did you mean 'group'"),
        ({"order": "group"}, r"order_ticks must be >= 2 for order=group, got 0 \(published: 16"),
        ({"order_ticks": -1}, "order_ticks must be >= 0 for order=segments, got -1"),
    ],
)
def test_bad_orders(options, message):
    with pytest.raises(ConfigError, match=message):
        SegmentConfig(**options)


def test_a_group_begins_an_episode_wherever_its_first_tick_lies(original):
    dataset = SegmentDataset(original, SegmentConfig(6, order="group", order_ticks=4))
    segment = dataset.batch(0)
    assert segment.valid.shape == (6, 4)
    assert segment.is_first[:, 0].all() and not segment.is_first[:, 1:].any()
    assert (segment.time_s.diff(dim=1) > 0).all()
    assert (segment.time_s[:, 0] > 0).any()


def test_a_stream_is_the_episodes_one_behind_the_other(original):
    dataset = SegmentDataset(original, SegmentConfig(2, order="stream", order_ticks=5))
    again = SegmentDataset(original, SegmentConfig(2, order="stream", order_ticks=5, cache="never"))
    time_s, first = [], []
    for step in range(12):
        segment = dataset.batch(step)
        assert segment.valid.all() and segment.valid.shape == (2, 5)
        assert torch.equal(segment.obs["front_image_u8"], again.batch(step).obs["front_image_u8"])
        time_s.append(segment.time_s)
        first.append(segment.is_first)
    time_s, first = torch.cat(time_s, dim=1), torch.cat(first, dim=1)
    assert (time_s[first] == 0).all() and first[:, 0].all()
    assert ((time_s.diff(dim=1) > 0) | first[:, 1:]).all()
