"""Blocks are compiled one by one, in place only while a step is taken; growth leaves untouched ones alone."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from bit_for_bit import config
from torch import nn

import ghostkit
from ghostkit import GhostkitError, Trainer
from ghostkit.compiling import Regions, blocks_of
from ghostkit.growth.edits import AddBlock, AddBranch, AddLink


@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        ("ghostnet_100", {}, {"GhostBottleneck": 16, "ConvBnAct": 1}),
        ("ghost_resnet18", {}, {"BasicBlock": 8}),
        ("ghost_mobilenet_v2", {}, {"InvertedResidual": 17, "Conv2dNormActivation": 1, "GhostModule": 1}),
    ],
)
def test_the_blocks_of_a_network_are_its_residual_blocks(name, options, kinds):
    found: dict[str, int] = {}
    for block in blocks_of(ghostkit.build(name, **options)):
        found[type(block).__name__] = found.get(type(block).__name__, 0) + 1
    assert found == kinds


def test_no_block_lies_within_another_and_a_detectors_backbone_has_blocks_too():
    model = ghostkit.build("seedling", 3, 1, task="detection")
    blocks = [*blocks_of(model)]
    inner = [part for block in blocks for part in block.modules() if part is not block]
    assert any(type(block).__name__ == "GhostBottleneck" for block in blocks)
    assert not {*map(id, blocks)} & {*map(id, inner)}


@pytest.fixture
def counted(monkeypatch):
    """Compile nothing, and count the calls of each block that would have run compiled."""
    calls: list[nn.Module] = []

    def compile_(call, **settings):
        def compiled(*args):
            calls.append(call.__self__)
            return call(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def test_compiled_forwards_are_in_place_inside_the_block_of_code_only(counted):
    model = ghostkit.build("seedling", 10, 1).eval()
    images = torch.randn(2, 1, 8, 8)
    regions = Regions(model)
    with regions.used():
        inside = model(images)
    assert [*map(type, counted)] == [*map(type, blocks_of(model))]
    counted.clear()
    assert torch.equal(model(images), inside)
    copy.deepcopy(model)(images)
    ghostkit.sites(model)
    assert counted == []


def test_an_error_inside_leaves_no_compiled_forward_behind(counted):
    model = ghostkit.build("seedling", 10, 1)
    with pytest.raises(ZeroDivisionError), Regions(model).used():
        raise ZeroDivisionError
    assert not any(module._compiled_call_impl for module in model.modules())


def test_growth_keeps_what_is_compiled_and_adds_what_is_new(counted):
    model = ghostkit.build("seedling", 10, 1)
    regions = Regions(model)
    before = dict(regions._compiled)
    ghostkit.grow(model, AddBlock("blocks.1", "0"), probe=torch.randn(4, 1, 8, 8))
    regions.renew()
    assert {*before} < {*regions._compiled}
    assert all(regions._compiled[block] is forward for block, forward in before.items())


def test_a_compiled_block_computes_what_it_did_and_only_a_touched_one_is_compiled_again():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = ghostkit.build("seedling", 10, 1)
    images, targets = torch.randn(8, 1, 8, 8), torch.arange(8)
    regions = Regions(model)

    def step(compiled: bool) -> list[torch.Tensor]:
        model.zero_grad()
        if compiled:
            with regions.used():
                loss = F.cross_entropy(model(images), targets)
        else:
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    for one, other in zip(step(False), step(True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    ghostkit.grow(model, AddBranch("blocks.1.0.ghost1", kernel_size=5), probe=images)
    regions.renew()
    step(True)
    assert graphs["unique_graphs"] == before + 1


def test_a_link_between_compiled_blocks_compiles_both_again_and_then_hands_on_each_batch(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = ghostkit.build("seedling", 10, 1).eval()
    ghostkit.grow(model, AddBlock("blocks.1", "0"))
    regions, graphs = Regions(model), torch._dynamo.utils.counters["stats"]
    counts = []
    for batch in range(3):
        images = torch.randn(4, 1, 8, 8)
        with regions.used():
            inside = model(images)
        torch.testing.assert_close(inside, model(images))
        counts.append(graphs["unique_graphs"])
        if batch == 0:
            ghostkit.grow(model, AddLink("blocks.1.0.ghost1", "blocks.1.g1.ghost1"))
            nn.init.normal_(model.blocks[1].g1.links["0"].projection.weight)
    assert counts[1:] == [counts[0] + 2] * 2


@pytest.mark.parametrize(
    ("variables", "words"),
    [({"CXX": "no-such-compiler -O2"}, r"\$CXX, 'no-such-compiler', is not there"), ({}, "none of g.*is on the PATH")],
)
def test_without_a_compiler_compile_is_refused_before_anything_is_trained(variables, words, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GhostkitError, match=f"compile=True: .*{words}; install one"):
        Trainer(config(compile=True))
