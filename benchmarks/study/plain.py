"""The plain host: a small ResNet of ordinary convolutions that gromo can grow, too.

Growth widens what lies between the two convolutions of a block, and nothing else, for everybody: that sets the
algorithms against each other, not what a library can grow.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlainResNet", "gromo_twin"]

STREAM = 4  # channels of the residual stream in the first stage, twice as many in each further one
STAGES = 3


class Block(nn.Module):
    """Two 3x3 convolutions with ``hidden`` channels between them, and a shortcut."""

    def __init__(self, channels: int, hidden: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H / stride, W / stride)."""
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x))


class PlainResNet(nn.Module):
    """A ResNet with one block a stage.

    Args:
        hidden: channels between the convolutions of each block.
    """

    def __init__(self, hidden: tuple[int, ...] = (2,) * STAGES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, STREAM, 3, 1, 1, bias=False), nn.BatchNorm2d(STREAM), nn.ReLU())
        widths = [STREAM * 2**stage for stage in range(len(hidden))]
        self.blocks = nn.Sequential(
            *(
                Block(widths[max(stage - 1, 0)], wide, widths[stage], 1 if stage == 0 else 2)
                for stage, wide in enumerate(hidden)
            )
        )
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, H, W) to logits (B, 10)."""
        return self.linear(self.flatten(self.pool(self.blocks(self.stem(x)))))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Channels between the convolutions of each block."""
        return tuple(block.conv1.out_channels for block in self.blocks)


class OpenReLU(nn.ReLU):
    """A ReLU whose derivative at zero is one, as GradMax needs it, whose new neurons start there (2201.05125)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0)."""
        return F.relu(x) + (x - x.detach()) * (x == 0)


def gromo_twin(host: PlainResNet, open_relu: bool = False) -> Any:
    """Return the same network, weights included, as gromo builds its ResNets.

    Args:
        host: the network to copy.
        open_relu: let new neurons that start at zero have a gradient.
    """
    from gromo.containers.resnet import ResNetBasicBlock

    warnings.filterwarnings("ignore", module="gromo")
    model = ResNetBasicBlock(
        in_features=1,
        out_features=10,
        device="cpu",
        activation=OpenReLU() if open_relu else nn.ReLU(),
        hidden_channels=host.hidden,
        small_inputs=True,
        inplanes=STREAM,
        use_preactivation=False,
    )
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    theirs = dict(host.named_parameters()) | dict(host.named_buffers())
    with torch.no_grad():
        for tensor, source in zip(own.values(), theirs.values(), strict=True):  # both name what comes first, first
            tensor.copy_(source)
    return model
