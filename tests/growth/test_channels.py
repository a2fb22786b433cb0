"""However the channels of a layer move, a consumer that follows them computes the same sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ghostkit.growth.channels import FRESH, ChannelMap, is_channels_last, remapped


@st.composite
def channel_maps(draw: st.DrawFn) -> ChannelMap:
    """Old channels in any order, some of them split in two, with fresh ones anywhere between."""
    before = draw(st.integers(1, 6))
    split = draw(st.lists(st.integers(0, before - 1), unique=True))
    fresh = draw(st.integers(0, 4))
    channels = [(i, 0.4 if i in split else 1.0) for i in range(before)]
    channels += [(i, 0.6) for i in split] + [(FRESH, 0.0)] * fresh
    source, share = zip(*draw(st.permutations(channels)), strict=True)
    return ChannelMap.of(list(source), before, list(share))


@given(channel_maps(), st.integers(1, 3))
def test_a_consumer_that_follows_its_producer_keeps_its_sum(channels: ChannelMap, times: int) -> None:
    channels = channels.repeated(times)
    features = torch.randn(5, channels.before, dtype=torch.float64)
    weight = torch.randn(3, channels.before, dtype=torch.float64)
    wider = remapped(features, channels, 1, fresh=torch.randn(5, int(channels.fresh.sum()), dtype=torch.float64))
    columns = remapped(weight, channels, 1, shared=True)
    assert wider.shape[1] == columns.shape[1] == channels.size
    torch.testing.assert_close(wider @ columns.T, features @ weight.T)


def test_fresh_entries_get_the_value_that_was_asked_for_and_others_stay() -> None:
    channels = ChannelMap.of([1, FRESH, 0, FRESH], before=2)
    old = torch.tensor([[1.0, 2.0]])
    assert remapped(old, channels, 1, 7.0).tolist() == [[2.0, 7.0, 1.0, 7.0]]
    assert remapped(old, channels, 1, torch.tensor([[8.0, 9.0]])).tolist() == [[2.0, 8.0, 1.0, 9.0]]
    assert remapped(old, channels, 1, shared=True).tolist() == [[2.0, 0.0, 1.0, 0.0]]
    assert old.tolist() == [[1.0, 2.0]]


def test_the_values_of_a_flattened_channel_move_together() -> None:
    channels = ChannelMap.of([1, FRESH, 0], before=2).repeated(2)
    assert channels.source.tolist() == [2, 3, FRESH, FRESH, 0, 1]
    assert (channels.before, channels.size) == (4, 6)
    assert channels.share.tolist() == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("format_", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_moved_tensor_keeps_its_memory_format(format_: torch.memory_format, dim: int) -> None:
    old = torch.randn(4, 4, 3, 3).contiguous(memory_format=format_)
    new = remapped(old, ChannelMap.of([0, 1, 2, 3, FRESH], before=4), dim)
    assert is_channels_last(new) == is_channels_last(old) == (format_ is torch.channels_last)


def test_a_one_by_one_kernel_does_not_count_as_channels_last() -> None:
    assert not is_channels_last(torch.randn(4, 4, 1, 1).contiguous(memory_format=torch.channels_last))
