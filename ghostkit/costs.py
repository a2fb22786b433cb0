"""What a network costs: parameters, MACs, memory and measured latency, always read off the live module.

MACs come from PyTorch's own counter (half its FLOPs). Latency is measured: once for a whole network by :func:`cost`,
and once per kind of layer and device by :class:`LatencyTable`, which then answers for layers of any width without
timing anything again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Cost", "LatencyTable", "LayerCost", "cost", "layer_costs", "macs", "params"]


@dataclass(frozen=True)
class Cost:
    """What one forward pass costs.

    Args:
        params: learnable parameters.
        macs: multiply-accumulates per image.
        memory: bytes of the parameters and buffers, and of what layers without parts put out for one image.
        milliseconds: measured latency of one eval forward on the example's batch; None if it was not measured.
    """

    params: int
    macs: int
    memory: int
    milliseconds: float | None = None


def params(host: nn.Module) -> int:
    """Return the number of learnable parameters."""
    return sum(parameter.numel() for parameter in host.parameters())


# Forward, backward to inputs, backward to weights: a training pass costs three times the forward's MACs.
TRAINING_PASS = 3.0


@contextmanager
def evaluating(host: nn.Module) -> Iterator[None]:
    """Put ``host`` into eval mode without gradients, and every module back into its own mode after."""
    modes = [(module, module.training) for module in host.modules()]
    host.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def attention_in_parts() -> Iterator[None]:
    """Let PyTorch's attention be computed by the operations that it is made of; its fused kernels are not counted."""
    usual = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(usual)


def macs(host: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of one image of ``example`` (B, C, H, W)."""
    with evaluating(host), attention_in_parts(), FlopCounterMode(display=False) as counter:
        host(example[:1])
    return counter.get_total_flops() // 2


def cost(host: nn.Module, example: Tensor, measure: bool = True, repeats: int = 20) -> Cost:
    """Return what one forward pass of ``host`` costs.

    Args:
        host: the network; it is left as it was.
        example: images (B, C, H, W); latency is that of the whole batch, the rest is per image.
        measure: whether to time it.
        repeats: timed passes; their median counts.

    >>> cost(ghostkit.build("seedling", num_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8)).macs
    8408
    """
    sizes = [tensor.numel() * tensor.element_size() for tensor in (*host.parameters(), *host.buffers())]
    layers = {path for path, module in host.named_modules() if not any(module.children())}
    called = called_shapes(host, example[:1])
    activations = sum(shape.numel() for path, shapes in called.items() if path in layers for shape in shapes)
    return Cost(
        params=params(host),
        macs=macs(host, example),
        memory=sum(sizes) + activations * example.element_size(),
        milliseconds=latency(host, example, repeats) if measure else None,
    )


def latency(host: nn.Module, example: Tensor, repeats: int = 20) -> float:
    """Return the median milliseconds of an eval forward on ``example``."""

    def once() -> float:
        synchronise(example.device)
        start = time.perf_counter()
        host(example)
        synchronise(example.device)
        return (time.perf_counter() - start) * 1e3

    with evaluating(host):
        once()
        return median(once() for _ in range(repeats))


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def output_shapes(host: nn.Module, example: Tensor) -> dict[str, torch.Size]:
    """Return the output shape of every module that is called and returns a tensor, by path, for one eval forward.

    Of a module that is called several times, it is that of the last call.
    """
    return {path: called[-1] for path, called in called_shapes(host, example).items()}


def called_shapes(host: nn.Module, example: Tensor) -> dict[str, list[torch.Size]]:
    """Return the output shapes of all calls of every module that returns a tensor, by path, for one eval forward."""
    shapes: dict[str, list[torch.Size]] = {}

    def remember(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes.setdefault(path, []).append(output.shape)

        return hook

    handles = [module.register_forward_hook(remember(path)) for path, module in host.named_modules()]
    try:
        with evaluating(host):
            host(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer at one output size.

    Args:
        family: what decides its speed besides its width: sort, kernel, stride and output size, as text.
        macs: multiply-accumulates per image.
        params: parameters of the layer.
    """

    family: str
    macs: int
    params: int


def family_of(layer: nn.Module, shape: torch.Size) -> str:
    """Return the latency family of a layer whose output has ``shape``."""
    if isinstance(layer, nn.Conv2d):
        sort = "dense" if layer.groups == 1 else "cheap"
        kernel, stride = "x".join(map(str, layer.kernel_size)), layer.stride[0]
        return f"{sort} {kernel} /{stride} {shape[-2]}x{shape[-1]}"
    rows = positions(layer, shape)
    return f"linear x{rows}" if rows > 1 else "linear"


def positions(layer: nn.Module, shape: torch.Size) -> int:
    """Return how often each weight of a layer is used for one image, when its output has ``shape`` for that image.

    Of a linear layer over tokens (1, T, C), or over positions (1, H, W, C), it is once for each of them.
    """
    return shape[-2] * shape[-1] if isinstance(layer, nn.Conv2d) else shape[:-1].numel()


def layer_costs(host: nn.Module, example: Tensor) -> dict[str, LayerCost]:
    """Return the cost of every convolution and linear layer of ``host``, by path.

    A layer that is called again, as a detector's head at each level, has an entry ``PATH (2)``, ``(3)``, ... for each
    further call, without parameters.

    Args:
        host: the network, or any part of one.
        example: its input (B, C, H, W).
    """
    shapes = called_shapes(host, example[:1])
    return {
        f"{path} ({call})" if call > 1 else path: LayerCost(
            family_of(layer, shape),
            layer.weight.numel() * positions(layer, shape),
            sum(parameter.numel() for parameter in layer.parameters()) if call == 1 else 0,
        )
        for path, layer in host.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
        for call, shape in enumerate(shapes.get(path, ()), start=1)
    }


def head_macs(host: nn.Module, example: Tensor) -> int:
    """Return the MACs, for one image of ``example``, of what does not grow in ``host``: a detector's head, say."""
    grown = getattr(host, "grown_part", "")
    if not grown:
        return 0
    return sum(cost.macs for path, cost in layer_costs(host, example).items() if not path.startswith(grown))


def head_sizes(host: nn.Module, example: Tensor) -> dict[str, int]:
    """Return ``head_params`` and ``head_macs`` of a network of which a part alone grows; nothing of others."""
    if not hasattr(host, "grown_part"):
        return {}
    return {"head_params": head_params(host), "head_macs": head_macs(host, example)}


def head_params(host: nn.Module) -> int:
    """Return the parameters of what does not grow in ``host``."""
    grown = getattr(host, "grown_part", "")
    return sum(parameter.numel() for name, parameter in host.named_parameters() if not name.startswith(grown))


@dataclass
class LatencyTable:
    """Milliseconds of layers by family, measured once per device and kept with the run.

    Every family is a straight line, ``overhead + slope * MACs``, through measurements at a few widths: thin layers cost
    their launch, wide ones their arithmetic.

    Args:
        batch: images per forward that the milliseconds are for.
        lines: family -> (overhead in ms, ms per MAC).
    """

    batch: int = 1
    lines: dict[str, tuple[float, float]] = field(default_factory=dict)

    def milliseconds(self, layer: LayerCost) -> float:
        """Return the predicted milliseconds of one layer; its family must have been measured."""
        overhead, slope = self.lines[layer.family]
        return overhead + slope * layer.macs

    def total(self, layers: Iterable[LayerCost], device: torch.device | str = "cpu") -> float:
        """Return the predicted milliseconds of ``layers`` together; families that the table lacks are measured."""
        layers = list(layers)
        for layer in layers:
            self.measure(layer.family, device)
        return sum(self.milliseconds(layer) for layer in layers)

    def measure(self, family: str, device: torch.device | str = "cpu", repeats: int = 15) -> None:
        """Measure ``family`` unless the table has it already."""
        if family in self.lines:
            return
        points = [sample(family, width, self.batch, torch.device(device), repeats) for width in (8, 32, 128)]
        xs = torch.tensor([point[0] for point in points], dtype=torch.float64)
        ys = torch.tensor([point[1] for point in points], dtype=torch.float64)
        # Weighted by 1/ms, so that the line is right for thin layers as well as for wide ones.
        weight = 1 / ys
        x, y = (weight * xs).sum() / weight.sum(), (weight * ys).sum() / weight.sum()
        slope = ((weight * (xs - x) * (ys - y)).sum() / (weight * (xs - x) ** 2).sum()).clamp(min=0)
        self.lines[family] = (max(float(y - slope * x), 0.0), float(slope))

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LatencyTable:
        """Return the table that :meth:`to_json` wrote."""
        return cls(int(values["batch"]), {name: (float(a), float(b)) for name, (a, b) in values["lines"].items()})


def sample(family: str, width: int, batch: int, device: torch.device, repeats: int) -> tuple[int, float]:
    """Return MACs per image and median milliseconds of one layer of ``family``, with the BN and ReLU behind it."""
    with torch.random.fork_rng(devices=[]):
        if family.startswith("linear"):
            rows = int(family.partition("x")[2] or 1)
            layer: nn.Module = nn.Linear(width, width)
            example, macs_ = torch.zeros(batch, rows, width), rows * width * width
        else:
            sort, kernel, stride, size = family.split()
            tall, broad = map(int, kernel.split("x"))
            height, wide = (int(side) * int(stride[1:]) for side in size.split("x"))
            groups = 1 if sort == "dense" else width
            padding = (tall // 2, broad // 2)
            conv = nn.Conv2d(width, width, (tall, broad), int(stride[1:]), padding, groups=groups, bias=False)
            layer = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            example = torch.zeros(batch, width, height, wide)
            macs_ = conv.weight.numel() * height * wide // int(stride[1:]) ** 2
    return macs_, latency(layer.to(device), example.to(device), repeats)
