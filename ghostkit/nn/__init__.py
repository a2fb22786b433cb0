"""What is grown: the ghost module, the networks made of it, and their names. Nothing here knows that it can grow."""

from ghostkit.nn.ghost import GhostBottleneck, GhostModule, SqueezeExcite
from ghostkit.nn.ghostnet import GhostNet
from ghostkit.nn.zoo import build

__all__ = ["GhostBottleneck", "GhostModule", "GhostNet", "SqueezeExcite", "build"]
