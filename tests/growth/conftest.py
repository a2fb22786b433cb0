"""The hosts that are grown, trained a little, and what the tests do with them again and again."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLayer,
    RemoveLink,
    Site,
    WidenStage,
    grow,
    sites,
)
from ghostkit.growth.blocks import asleep, identity_like, is_residual, remade
from ghostkit.growth.depth import link_places
from ghostkit.growth.width import stream_at
from ghostkit.nn import GhostBottleneck, GhostModule, GhostNet, build
from ghostkit.nn.ghostify import ghosted
from ghostkit.nn.ghostnet import Row
from ghostkit.nn.links import link_place, links_of
from ghostkit.tasks import TASKS

CLASSES = 5
FIRST_LABEL = 1000.0  # above every number that growth puts into fresh entries


class Odd(nn.Module):
    """A user's own network: odd channel counts, cut-off ghosts, 3x3 primary kernels, one module with two consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GhostModule(3, 7, kernel_size=3, ratio=3)
        self.norm = nn.BatchNorm2d(7)
        self.left = nn.Conv2d(7, 5, 3, padding=1, stride=2)
        self.right = GhostModule(7, 5, ratio=2, stride=2, attention=True)
        self.deep = nn.Sequential(GhostBottleneck(5, 9, 5, squeeze_excite=0.25, ratio=3))
        self.last = GhostModule(5, 3, ratio=2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(3 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = self.deep(self.left(x) + self.right(x))
        return self.head(torch.flatten(self.pool(self.last(x)), 1))


class Squeezed(nn.Module):
    """A user's own residual block, with an attribute called twice, a bias, a dilated 5x3 kernel and a SiLU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, hidden, (5, 3), padding=(4, 1), dilation=(2, 1))
        self.norm = nn.BatchNorm2d(hidden)
        self.act = nn.SiLU()
        self.widen = nn.Conv2d(hidden, channels, 1)
        self.last_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last_norm(self.widen(self.act(self.norm(self.narrow(self.act(x))))))


@identity_like.register
def _(block: Squeezed, hidden: int | None = None) -> tuple[nn.Module, tuple[str, str]]:
    return asleep(remade(copy.deepcopy(block), block.last_norm.num_features, hidden))


@is_residual.register
def _(block: Squeezed) -> bool:
    return True


class Own(nn.Module):
    """A user's own network, to be ghosted: two branches, concatenated, a row of own blocks, a mean for a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 3, padding=1))
        self.row = nn.Sequential(Squeezed(10, 6), Squeezed(10, 5))
        self.neck = nn.Sequential(nn.Conv2d(10, 9, 1, bias=False), nn.BatchNorm2d(9), nn.ReLU())
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.neck(self.row(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(x.mean((2, 3)))


STAGES = ((Row(3, 8, 8, 0, 2),), (Row(3, 16, 12, 0, 2),), (Row(3, 24, 16, 0, 1),))


def narrow(name: str) -> nn.Module:
    """The published topology, every block of it, with few channels."""
    return build(name, CLASSES, width=0.2, head_channels=16, dropout=0.0)


ROWS = ((Row(3, 8, 8, 0, 2), Row(3, 4, 8, 0, 1)), (Row(5, 8, 12, 0.5, 1), Row(3, 12, 12, 0, 1), Row(3, 8, 12, 0.5, 1)))
GROWTH = (  # every kind of edit, and edits on what the others made
    DeepenBranches("blocks.0.0.ghost1"),
    AddBranch("blocks.0.0.ghost1", 5),
    AddLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"),
    AddLink("blocks.1.0.ghost1", "blocks.1.2.ghost1"),
    AddBlock("blocks.1", "1", init="clone"),
    AddLink("blocks.1.g1.ghost1", "blocks.1.2.ghost1"),
    AddIntrinsic("blocks.1.g1.ghost1", 2),
    DeepenBranches("blocks.1.g1.ghost1", 5),
    WidenStage("blocks.0.0.ghost2", 4),
    WidenStage("blocks.2.0.conv", 3),
)


def grown() -> nn.Module:
    """A network whose rows have several blocks, grown by every kind of edit."""
    model = build("seedling", CLASSES, 1, stages=ROWS)
    grow(model, GROWTH)
    return model


HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {  # images leave 64 values a channel at the end
    "small": (lambda: build("seedling", CLASSES, 1, stages=STAGES), (16, 1, 12, 12)),  # for tests that name its parts
    "seedling": (lambda: build("seedling", CLASSES, 1), (16, 1, 12, 12)),
    "plain seedling": (lambda: build("seedling", CLASSES, 1, ratio=1), (16, 1, 12, 12)),
    "cut-off ghosts": (
        lambda: GhostNet(((Row(3, 8, 8, 0, 2),), (Row(5, 16, 8, 0.5, 1),)), 1, CLASSES, 1, head_channels=8, ratio=3),
        (16, 1, 12, 12),
    ),
    "odd": (Odd, (16, 3, 12, 12)),
    "rows": (lambda: build("seedling", CLASSES, 1, stages=ROWS), (16, 1, 12, 12)),
    "grown": (grown, (16, 1, 12, 12)),
    "ghostnet_100": (lambda: narrow("ghostnet_100"), (16, 3, 33, 33)),
    "ghostnetv2_100": (lambda: narrow("ghostnetv2_100"), (16, 3, 33, 33)),
    "ghost_resnet18": (lambda: build("ghost_resnet18", CLASSES, width=8), (16, 3, 33, 33)),
    "ghost_resnet50": (lambda: build("ghost_resnet50", CLASSES, width=4), (16, 3, 33, 33)),
    "ghost_resnet20": (lambda: build("ghost_resnet20", CLASSES), (16, 3, 8, 8)),
    "ghost_mobilenet_v2": (
        lambda: build("ghost_mobilenet_v2", CLASSES, width=0.2, stem_stride=1, dropout=0.0),
        (16, 3, 33, 33),
    ),
    "ghost_mobilenet_v3_large": (
        lambda: build("ghost_mobilenet_v3_large", CLASSES, width=0.2, stem_stride=1, dropout=0.0),
        (16, 3, 33, 33),
    ),
    "own": (lambda: ghosted(Own(), keep=["row.1.widen"]), (16, 3, 12, 12)),
    "fcos": (lambda: headed("detection", "fcos", convolutions=1), (16, 1, 32, 32)),
    "retinanet": (lambda: headed("detection", "retinanet"), (16, 1, 32, 32)),
    "lraspp": (lambda: headed("segmentation", "lraspp"), (16, 1, 32, 32)),
    "deeplabv3": (lambda: headed("segmentation", "deeplabv3", dropout=0.0), (16, 1, 32, 32)),
}


def headed(task: str, head: str, **options: float) -> nn.Module:
    """A small backbone with stages of strides 2, 4 and 8 under a head."""
    stages = ((Row(3, 8, 8, 0, 2),), (Row(3, 16, 12, 0.5, 2), Row(3, 12, 12, 0, 1)), (Row(3, 24, 16, 0, 2),))
    return build("seedling", CLASSES, 1, task=task, head=head, head_options={"channels": 8, **options}, stages=stages)


def draw_targets(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """What a host might have to learn of images of this shape."""
    task, (count, _, height, width) = task_of(model), shape
    if task == "segmentation":
        return torch.randint(CLASSES, (count, height, width)).to(torch.uint8)
    classes = torch.randint(CLASSES, (count,))
    if task == "classification":
        return classes
    corners = torch.rand(count, 2) * torch.tensor([width / 2, height / 2])
    far = corners + torch.tensor([width, height]) * (0.25 + 0.25 * torch.rand(count, 2))
    return torch.cat([corners, far, classes[:, None], torch.zeros(count, 1)], 1)[:, None]


def task_of(model: nn.Module) -> str:
    return getattr(model, "recipe", {}).get("task", "classification")


def loss_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The loss of the host's own task."""
    return TASKS[task_of(model)].loss(0.0)(model, images, targets)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.01),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.01),
}


@cache
def trained(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape = HOSTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = make().double(), torch.randn(shape).double()
        targets = draw_targets(model, shape)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(4):
            learn(model, optimizer, images, targets)
        optimizer.zero_grad()
    return model, images, targets


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> float:
    optimizer.zero_grad()
    loss = loss_of(model, images, targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.fixture
def host() -> Callable[..., tuple[nn.Module, Tensor, Tensor]]:
    """A fresh copy of a trained host in train mode, with a batch: ``host("odd", torch.float64)``."""

    def _host(name: str = "small", dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
        model, images, targets = trained(name)
        return copy.deepcopy(model).to(dtype), images.to(dtype, copy=True), targets

    return _host


@pytest.fixture
def make_host() -> Callable[[str], nn.Module]:
    """The network that a host was before it was trained: ``make_host("own")``."""
    return lambda name: HOSTS[name][0]()


@pytest.fixture
def make_optimizer() -> Callable[[str, nn.Module], torch.optim.Optimizer]:
    """An optimizer with weight decay by name: ``make_optimizer("Adam", model)``."""
    return lambda name, model: OPTIMIZERS[name](model.parameters())


@pytest.fixture
def train_step() -> Callable[..., float]:
    """One step of an optimizer on the host's own loss: ``loss = train_step(model, optimizer, images, targets)``."""
    return learn


def found(*shape: int) -> Tensor:
    """Weights that a candidate might have found."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def branch_edit(site: Site, module: GhostModule, init: str, side: int) -> AddBranch | None:
    if init == "split" and side not in module.branches():
        return None
    tensors = {"rows": found(module.intrinsic_channels, 1, side, side)} if init == "svd" else None
    return AddBranch(site.id, side, init, tensors)


def intrinsic_edit(site: Site, module: GhostModule, init: str) -> AddIntrinsic:
    count = min(2, module.intrinsic_channels)
    tensors = {"rows": found(count, *module.primary.weight.shape[1:])} if init == "svd" else None
    return AddIntrinsic(site.id, count, init, tensors)


def layer_edit(site: Site, module: GhostModule, init: str, side: int) -> DeepenBranches | None:
    if not module.ghosts:
        return None
    tensors = {"rows": found(module.ghosts, 1, side, side)} if init == "svd" else None
    return DeepenBranches(site.id, side, init, tensors)


def stage_edit(model: nn.Module, known: list[Site], site: Site, init: str) -> WidenStage | None:
    try:
        _, stream = stream_at(WidenStage(site.id, 1), model, known)
    except GhostkitError:  # its producers disagree on an order of channels, which is a test of its own
        return None
    count = min(2, stream.maps)
    tensors = None
    if init == "svd":
        tensors = {path: found(count, *module.primary.weight.shape[1:]) for path, module in stream.ghosts.items()}
        for path, layer in stream.dense.items():
            tensors[path] = found(count * stream.ratio, *layer.weight.shape[1:])
    return WidenStage(site.id, count * stream.ratio, init, tensors)


def block_edit(site: Site, which: str) -> AddBlock:
    place = site.blocks[-1] if which in ("last", "clone") else site.blocks[0]
    return AddBlock(site.id, place, 3 if which == "narrow" else None, "clone" if which == "clone" else "random")


@pytest.fixture
def edits_of() -> Callable[[nn.Module, str], list[Edit]]:
    """One edit of a kind at every site that can take it: ``edits_of(model, "branch 5x5 found")``."""

    def _edits_of(model: nn.Module, kind: str) -> list[Edit]:
        sort, *rest = kind.split()
        known = sites(model)
        if sort == "link":
            return [AddLink(*place) for place in link_places(model, known)]
        axis = {"block": "depth", "stage": "stream"}.get(sort, "width")
        init, edits = "svd" if rest[-1] == "found" else rest[-1], []
        for site in (site for site in known if site.axis == axis):
            module = model.get_submodule(site.id)
            if sort == "branch":
                edits.append(branch_edit(site, module, init, int(rest[0][0])))
            elif sort == "intrinsic":
                edits.append(intrinsic_edit(site, module, init))
            elif sort == "layer":
                edits.append(layer_edit(site, module, init, int(rest[0][0])))
            elif sort == "stage":
                edits.append(stage_edit(model, known, site, init))
            else:
                edits.append(block_edit(site, rest[0]))
        return [edit for edit in edits if edit is not None]

    return _edits_of


def width_choices(model: nn.Module, site: Site, draw: random.Random) -> tuple[list[Edit], list[Edit]]:
    module = model.get_submodule(site.id)
    branches = module.branches()
    added: list[Edit] = [
        *(
            AddBranch(site.id, side, init)
            for side in (3, 5, 7)
            for init in ("random", "split")[: 1 + (side in branches)]
        ),
        *(AddIntrinsic(site.id, 1, init) for init in ("random", "split")),
        *(DeepenBranches(site.id, draw.choice([3, 5])) for _ in range(2 * bool(branches))),
    ]
    last = sum(branches.values()) == 1 and (site.links_into or len(module.deeper_layers))  # these rest on ghost maps
    removed: list[Edit] = [
        *(RemoveBranch(site.id, side, draw.randrange(count)) for side, count in branches.items() if not last),
        *(RemoveLayer(site.id, name) for name in module.deeper_layers._modules),
    ]
    if module.intrinsic_channels > 1:
        removed.append(RemoveIntrinsic(site.id, (draw.randrange(module.intrinsic_channels),)))
    return added, removed


def stream_choices(
    model: nn.Module, known: list[Site], site: Site, draw: random.Random
) -> tuple[list[Edit], list[Edit]]:
    try:
        _, stream = stream_at(WidenStage(site.id, 1), model, known)
    except GhostkitError:
        return [], []
    narrow_down = [NarrowStage(site.id, (draw.randrange(stream.maps),))] if stream.maps > 1 else []
    return [WidenStage(site.id, stream.ratio, init) for init in ("random", "split")], narrow_down


def depth_choices(model: nn.Module, site: Site, draw: random.Random) -> tuple[list[Edit], list[Edit]]:
    row = model.get_submodule(site.id)
    sources = {source for block in row for source in links_of(block)}
    free = [name for name in site.blocks[1:] if name not in sources and is_residual(row.get_submodule(name))]
    added: list[Edit] = [
        AddBlock(site.id, draw.choice(site.blocks), draw.choice([None, 5]), draw.choice(["random", "clone"]))
    ]
    return added, [RemoveBlock(site.id, name) for name in free]


def link_choices(model: nn.Module, known: list[Site]) -> tuple[list[Edit], list[Edit]]:
    there = [
        RemoveLink(*(f"{row.id}.{end}.{link_place(model.get_submodule(f'{row.id}.{end}'))}" for end in (source, name)))
        for row in known
        if row.axis == "depth"
        for name, block in model.get_submodule(row.id).named_children()
        for source in links_of(block)
    ]
    return [AddLink(*place) for place in link_places(model, known)], there


@pytest.fixture
def any_edit() -> Callable[[nn.Module, random.Random, bool], Edit]:
    """A random edit that grows, or one that removes: ``any_edit(model, random.Random(0), remove=True)``."""

    def _any_edit(model: nn.Module, draw: random.Random, remove: bool) -> Edit:
        known = sites(model)
        while True:
            axis = draw.choices(["width", "stream", "depth", "link"], [10, 3, 2, 2])[0]
            if axis == "link":
                choices = link_choices(model, known)
            else:
                site = draw.choice([site for site in known if site.axis == axis])
                if axis == "width":
                    choices = width_choices(model, site, draw)
                elif axis == "stream":
                    choices = stream_choices(model, known, site, draw)
                else:
                    choices = depth_choices(model, site, draw)
            if choices[remove]:
                return draw.choice(choices[remove])

    return _any_edit


@cache
def grown_labels(name: str, edits: tuple[Edit, ...]) -> nn.Module:
    copied = copy.deepcopy(trained(name)[0])
    for tensor in [*copied.parameters(), *copied.buffers()]:
        if tensor.is_floating_point():
            tensor.data = FIRST_LABEL + torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
    grow(copied, edits)
    return copied


@pytest.fixture
def labelled() -> Callable[[str, Sequence[Edit]], nn.Module]:
    """A grown host in which every old number is its own label, so that one sees where it went: not to be changed."""
    return lambda name, edits: grown_labels(name, tuple(edits))


@pytest.fixture
def old_entries() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Where a tensor of a labelled copy holds old entries, and their flat places before: ``mask, places``."""

    def _old_entries(labels: Tensor) -> tuple[Tensor, Tensor]:
        mask = labels >= FIRST_LABEL
        return mask, (labels[mask] - FIRST_LABEL).long()

    return _old_entries


@pytest.fixture
def snapshot() -> Callable[..., dict[str, object]]:
    """Everything that training depends on, as copies: compare two with ``same``."""

    def _snapshot(
        model: nn.Module, optimizer: torch.optim.Optimizer | None = None, others: Sequence[nn.Module] = ()
    ) -> dict[str, object]:
        taken: dict[str, object] = {}
        for number, root in enumerate((model, *others)):
            taken |= {f"{number} {name}": tensor.clone() for name, tensor in root.state_dict().items()}
            taken |= {
                f"{number} {name} gradient": None if parameter.grad is None else parameter.grad.clone()
                for name, parameter in root.named_parameters()
            }
            taken[f"{number} parameters"] = [id(parameter) for parameter in root.parameters()]
            taken[f"{number} layers"] = [
                (name, repr(layer), layer.training, len(layer._forward_hooks)) for name, layer in root.named_modules()
            ]
        if optimizer is not None:
            taken["groups"] = [
                {key: [id(member) for member in value] if key == "params" else value for key, value in group.items()}
                for group in optimizer.param_groups
            ]
            taken |= {
                f"state {number} {key}": copy.deepcopy(value)
                for number, state in enumerate(optimizer.state.values())
                for key, value in state.items()
            }
        return taken

    return _snapshot


@pytest.fixture
def differences() -> Callable[[dict[str, object], dict[str, object]], list[str]]:
    """Names of what two snapshots do not share bit for bit."""

    def _differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
        def same(a: object, b: object) -> bool:
            if isinstance(a, Tensor) and isinstance(b, Tensor):
                return a.dtype == b.dtype and torch.equal(a, b)
            return type(a) is type(b) and a == b

        return [key for key in before | after if not same(before.get(key, "absent"), after.get(key, "absent"))]

    return _differences
