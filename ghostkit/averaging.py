"""A moving average of the weights, which is evaluated in their place where a run asks for it.

PyTorch's ``AveragedModel`` does the averaging; growth keeps it in step with the network.
"""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["moving_average"]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of the weights and BN statistics of ``model``.

    Args:
        model: the network; a copy of it is made.
        decay: share of the average that stays at every step.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    average.requires_grad_(False)
    return average.eval()
