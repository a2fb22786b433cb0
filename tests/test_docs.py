"""What the pages under docs show works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ghostkit.growth import AddBlock

PAGE = (Path(__file__).parents[1] / "docs" / "own_networks.md").read_text()


def test_a_network_of_ones_own_is_registered_ghosted_and_grown(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    shown: dict[str, object] = {"__name__": "__main__"}
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, "own_networks.md", "exec"), shown)
    kinds = set(shown["frame"]["kind"])
    assert {"branch", "intrinsic", "block", "stage"} <= kinds
    assert any(isinstance(edit, AddBlock) for edit in shown["frame"]["edit"])
    assert shown["event"].max_logit_change < 1e-4
    assert "what was replaced" not in capsys.readouterr().err


def test_a_rule_is_two_lines():
    rules = re.findall(r"@\w+\.register\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(rules) == 3
    assert all(len(rule.strip().split("\n\n")[0].splitlines()) == 2 for rule in rules)
