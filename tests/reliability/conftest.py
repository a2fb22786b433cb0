"""One process of victims for a module's tests, and the runs that nobody disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from reliability.runs import RUNS
from reliability.victims import Victims, left_of


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims() as started:
        yield started


@pytest.fixture(scope="module")
def unbroken(victims: Victims, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What is ``left`` of a run that nobody disturbed, how often it passed each place, and the ``seconds`` it took."""

    @cache
    def of(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("unbroken") / "run"
        ended = victims.run(RUNS[name], folder)
        assert ended["code"] == 0
        return {**ended, "left": left_of(Path(folder))}

    return of
