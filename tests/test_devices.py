"""How many threads a run computes on is its own affair: none of it is left to the next run of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ghostkit import RunConfig, devices

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(devices, "PINNED", [])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of(batch_macs: int, **settings: int) -> int:
    """Threads on which a run of so many MACs a batch computes."""
    devices.fix_threads(RunConfig(data="digits", **settings), CPU, lambda: batch_macs)
    return torch.get_num_threads()


def test_a_large_run_gets_all_threads_whatever_ran_before_it():
    assert [threads_of(batch) for batch in (10**9, 10**3, 10**9, 10**3, 10**3, 10**9)] == [2, 1, 2, 1, 1, 2]


def test_a_number_that_is_set_holds_for_its_run_alone():
    assert [threads_of(10**9, threads=1), threads_of(10**3), threads_of(10**9)] == [1, 1, 2]


def test_what_a_person_sets_between_two_runs_stays():
    assert threads_of(10**3) == 1
    torch.set_num_threads(3)
    assert threads_of(10**9) == 3
    assert [threads_of(10**3), threads_of(10**9)] == [1, 3]
