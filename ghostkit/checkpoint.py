"""Checkpoints: recipe, history and plain state as JSON, tensors as safetensors; nothing is ever unpickled.

A checkpoint is a folder. Its data files carry their checksum in their name and are written first; ``manifest.json``,
which names them and carries a checksum of itself, is replaced last and atomically. A reader therefore finds the old
checkpoint or the new one, whenever the writer is killed, and notices a file that is missing, cut short or altered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.files import remove_drafts, write_atomically
from ghostkit.growth.grow import rebuild, regrow
from ghostkit.growth.history import History, history_of
from ghostkit.growth.surgery import renew, transaction
from ghostkit.reading import MOST_TEXT, UNFITTING, file_bytes, file_text, parsed_json

__all__ = ["DamagedError", "load", "load_state", "save"]

FORMAT = 1
MANIFEST = "manifest.json"
FILES = ("history.jsonl", "model.safetensors", "optimizer.safetensors", "state.safetensors")
MANIFEST_KEYS = {"format", "files", "state", "channels_last", "frozen", "optimizer", "sha256"}
# Their compiled steps read and write as many moments as there are weights, whatever they are given.
ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam)
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class DamagedError(GhostkitError):
    """A checkpoint is not whole: a file is missing, was cut short or altered. An earlier one may still be whole."""


def save(
    model: nn.Module,
    folder: str | Path,
    optimizer: torch.optim.Optimizer | None = None,
    state: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Save a grown network, and what else it takes to go on, into ``folder``.

    Args:
        model: the network; its recipe and history go along, and which of its parts are frozen, where not all are.
        folder: made if it is not there; an older checkpoint in it is replaced.
        optimizer: its state and hyperparameters go along.
        state: further plain data, such as a trainer's counters.
        tensors: further tensors, such as the states of random generators.

    Raises:
        GhostkitError: if a weight is not finite, or the folder cannot be written; an older checkpoint is then whole.

    >>> save(model, "checkpoint", optimizer); model, optimizer = load("checkpoint", torch.optim.AdamW)
    """
    folder = Path(folder)
    statistics = {name: buffer for name, buffer in model.named_buffers() if "running_" in name}
    check_finite({**dict(model.named_parameters()), **statistics}, folder)
    contents = {
        "history.jsonl": "\n".join(history_of(model).lines()).encode() + b"\n",
        "model.safetensors": tensor_bytes(stored(model.state_dict())),
    }
    plain: dict[str, Any] = {
        "state": dict(state or {}),
        "channels_last": [name for name, parameter in model.named_parameters() if laid_out_channels_last(parameter)],
    }
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if 0 < len(frozen) < len(list(model.parameters())):  # one that is frozen throughout is a copy to look at
        plain["frozen"] = frozen
    if optimizer is not None:
        plain["optimizer"], moments = optimizer_to_plain(optimizer, model)
        check_finite(moments, folder)
        contents["optimizer.safetensors"] = tensor_bytes(moments)
    if tensors:
        contents["state.safetensors"] = tensor_bytes(stored(tensors))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GhostkitError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from None
    try:
        remove_drafts(folder)
        files = {}
        for name, data in contents.items():
            digest = hashlib.sha256(data).hexdigest()
            stem, _, suffix = name.rpartition(".")
            path = folder / f"{stem}-{digest[:12]}.{suffix}"
            files[name] = {"file": path.name, "sha256": digest}
            if not path.exists() or path.read_bytes() != data:
                write_atomically(path, data)
        manifest = sealed(json.loads(json.dumps({"format": FORMAT, "files": files, **plain})))
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
    finally:
        remove_unnamed(folder)  # those of the checkpoint that was replaced, or of one that could not be written
    return folder


def check_finite(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise where a number is not finite: training could not go on from a checkpoint of it.

    Raises:
        GhostkitError: if one is not; the message names its tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise GhostkitError(
                f"{name} holds values that are not finite, so no checkpoint is written to {str(folder)!r}; the ones "
                "before it are kept. Try a third of the learning rate, or precision='32-true'"
            )


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``manifest``, as JSON has it, with the checksum of all else that is in it."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**body, "sha256": hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()}


def remove_unnamed(folder: Path) -> None:
    """Remove the data files in ``folder`` that its manifest does not name, and a folder that never had one."""
    try:
        text = (folder / MANIFEST).read_text()
        current = {str(entry["file"]) for entry in json.loads(text)["files"].values()}
    except FileNotFoundError:
        current = set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # it is damaged, and says nothing of what may go
    for name in FILES:
        stem, _, suffix = name.rpartition(".")
        for path in folder.glob(f"{stem}-{'?' * 12}.{suffix}"):
            if path.name not in current:
                path.unlink(missing_ok=True)
    if not current:
        with suppress(OSError):  # a person's own files may be in it
            folder.rmdir()


def laid_out_channels_last(tensor: Tensor) -> bool:
    """Return whether the strides are those of channels-last: kernels are chosen, and so sums rounded, by strides."""
    if tensor.dim() != 4:
        return False
    plain, last = (
        torch.empty(tensor.shape, device="meta", memory_format=memory_format).stride()
        for memory_format in (torch.contiguous_format, torch.channels_last)
    )
    return tensor.stride() == last != plain


def lay_out(model: nn.Module, channels_last: Iterable[str]) -> None:
    """Give the named parameters of ``model`` strides of channels-last, and all others plain ones; values are lost."""
    lying = {model.get_parameter(name) for name in channels_last}
    for parameter in model.parameters():
        format_ = torch.channels_last if parameter in lying else torch.contiguous_format
        parameter.data = torch.empty_like(parameter.data, memory_format=format_)


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies of ``tensors`` on the CPU, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def load(folder: str | Path, optimizer: MakeOptimizer | None = None, host: nn.Module | None = None) -> Any:
    """Return the network saved in ``folder``, and its optimizer when one is asked for.

    Args:
        folder: where :func:`save` wrote.
        optimizer: the class, or a function that makes an optimizer of parameters; it is given the stored state.
        host: the seedling of a network of your own, which no recipe can build; it is grown in place, or left as it is
            where anything does not fit.

    Returns:
        The model, or the pair (model, optimizer) when ``optimizer`` is given.

    Raises:
        DamagedError: if a file is missing, cut short or altered.
        GhostkitError: if it was written by a newer version, or does not fit.
    """
    manifest, contents = read(folder)
    history = history_in(contents["history.jsonl"], f"{folder}/history.jsonl")
    weights = tensors_of(contents["model.safetensors"], f"{folder}/model.safetensors")
    if optimizer is not None and ("optimizer" not in manifest or "optimizer.safetensors" not in contents):
        raise GhostkitError(f"{str(folder)!r} holds no optimizer; it was saved without one")
    grown = [] if host is None else getattr(host, "growth_history", History()).events
    if grown:
        raise GhostkitError(
            f"the host {type(host).__name__} has a history of {len(grown)} event(s); expected the seedling that "
            f"{str(folder)!r} was grown from, as it was made, on which the history is carried out"
        )
    with nullcontext() if host is None else transaction(host):
        if host is None:
            model = rebuild(history)
        else:
            model = host
            regrow(model, history)
            renew(model)
        try:
            give_dtypes(model, weights)
            lay_out(model, manifest.get("channels_last", ()))
            model.load_state_dict(weights)
            for name in manifest.get("frozen", ()):
                model.get_parameter(name).requires_grad_(False)
        except UNFITTING as error:
            raise GhostkitError(
                f"the weights in {str(folder)!r} do not fit the network of its history: {error}"
            ) from None
        if optimizer is None:
            return model
        made = optimizer(model.parameters())
        moments = tensors_of(contents["optimizer.safetensors"], f"{folder}/optimizer.safetensors")
        optimizer_from_plain(made, model, manifest["optimizer"], moments, str(folder))
        return model, made


def give_dtypes(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give every number of ``model`` the precision that it has in ``weights``; in a half network, BN may be single."""
    kinds = {weight.dtype for weight in weights.values() if weight.is_floating_point()}
    if len(kinds) == 1:
        model.to(dtype=kinds.pop())  # with the buffers that no checkpoint holds
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in weights and tensor.is_floating_point() and weights[name].is_floating_point():
            tensor.data = tensor.data.to(weights[name].dtype)


def load_state(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the further plain data and tensors that :func:`save` was given."""
    manifest, contents = read(folder)
    data, state = contents.get("state.safetensors"), manifest.get("state", {})
    if not isinstance(state, dict):
        raise GhostkitError(f"the state in {str(folder)!r} is {type(state).__name__}; expected names and values")
    return state, {} if data is None else tensors_of(data, f"{folder}/state.safetensors")


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return a checkpoint's manifest and the contents of its files, after checking their sums.

    Raises:
        DamagedError: if it is not whole.
        GhostkitError: if it was written by a newer version.
    """
    folder = Path(folder)
    try:
        manifest = parsed_json(file_text(folder / MANIFEST))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{str(folder)!r} is no checkpoint: cannot read its {MANIFEST}: {error}") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise GhostkitError(
            f"the checkpoint {str(folder)!r} was written by a newer ghostkit: it has format {found}, and this version "
            f"reads format {FORMAT}; upgrade ghostkit"
        )
    if found != FORMAT:
        raise DamagedError(f"the checkpoint {str(folder)!r} has format {found!r}; this version reads format {FORMAT}")
    seal = manifest.get("sha256")  # which checkpoints of the first weeks lack
    if set(manifest) - MANIFEST_KEYS or (seal is not None and seal != sealed(manifest)["sha256"]):
        raise DamagedError(
            f"the {MANIFEST} of {str(folder)!r} was altered: its checksum is not its own; use an earlier one"
        )
    contents = {}
    try:
        entries = {str(name): (str(e["file"]), str(e["sha256"])) for name, e in manifest["files"].items()}
        if not entries.keys() <= set(FILES):
            raise DamagedError(
                f"the {MANIFEST} of {str(folder)!r} names {', '.join(entries)}; expected some of {FILES}"
            )
        for name, (file, digest) in entries.items():
            if Path(file).name != file:
                raise DamagedError(f"the checkpoint {str(folder)!r} names a file outside itself: {file!r}")
            data = file_bytes(folder / file, MOST_TEXT) if name.endswith("l") else file_bytes(folder / file)
            if hashlib.sha256(data).hexdigest() != digest:
                raise DamagedError(
                    f"{str(folder / file)!r} was cut short or altered: its checksum is not the one in {MANIFEST}; "
                    "use an earlier checkpoint"
                )
            contents[name] = data
    except OSError as error:
        raise DamagedError(f"the checkpoint {str(folder)!r} lacks a file: {error}; use an earlier one") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"the {MANIFEST} of {str(folder)!r} is not as save() writes it: {error!r}") from None
    for name in ("history.jsonl", "model.safetensors"):
        if name not in contents:
            raise DamagedError(f"the checkpoint {str(folder)!r} names no {name}")
    return manifest, contents


def tensors_of(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors in safetensors ``data``."""
    try:
        return parse_tensors(data)
    except (SafetensorError, *UNFITTING) as error:
        raise GhostkitError(f"{source} holds no tensors that can be read: {error}") from None


def history_in(data: bytes, source: str) -> History:
    """Return the history in the ``data`` of a checkpoint's file."""
    try:
        lines = data.decode().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise GhostkitError(f"cannot read the history {source}: {error}") from None
    return History.parse(lines, source)


def optimizer_to_plain(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return an optimizer's groups and numbers as plain data, and its tensors, all under the parameters' names."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in names:
                raise GhostkitError(
                    f"the optimizer also holds a parameter of shape {tuple(parameter.shape)} that is no part of "
                    f"{type(model).__name__}; a checkpoint holds the network's own: make that parameter a part of it, "
                    "or give it an optimizer of its own"
                )
        settings = {key: plain_setting(value) for key, value in group.items() if key != "params"}
        groups.append({"settings": settings, "params": [names[parameter] for parameter in group["params"]]})
    numbers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{names[parameter]}|{key}"] = value
            else:
                numbers.setdefault(names[parameter], {})[key] = value
    return {"class": type(optimizer).__name__, "groups": groups, "numbers": numbers}, stored(tensors)


def plain_setting(value: Any) -> Any:
    """Return a hyperparameter as JSON can hold it."""
    return float(value) if isinstance(value, Tensor) else value


def fitting(key: str, value: Any, default: Any) -> Any:
    """Return a stored hyperparameter as an optimizer wants it that was made with ``default``.

    Raises:
        ValueError: if it is of another kind.
    """
    value = list(value) if isinstance(value, tuple) else value
    many = value if isinstance(value, list) else [value]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in many)
    if isinstance(default, tuple):
        fits = isinstance(value, list) and len(value) == len(default) and numbers
        value = tuple(many)
    elif isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int | float | Tensor):
        fits = numbers and not isinstance(value, list)
    else:
        fits = not isinstance(value, dict)
    if not fits:
        raise ValueError(f"{key} = {value!r:.60}; expected something like {default!r}")
    return value


def optimizer_from_plain(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    plain: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Put the stored groups and state into ``optimizer``."""
    parameters = dict(model.named_parameters())
    kind = plain.get("class") if isinstance(plain, Mapping) else None
    if kind != type(optimizer).__name__:
        raise GhostkitError(f"{source!r} holds the state of {kind}, not of {type(optimizer).__name__}")
    try:
        defaults = optimizer.param_groups[0]
        optimizer.param_groups = []
        for group in plain["groups"]:
            settings = {key: fitting(key, value, defaults.get(key)) for key, value in group["settings"].items()}
            optimizer.add_param_group({"params": [parameters[name] for name in group["params"]], **settings})
        optimizer.state.clear()
        for name, numbers in plain["numbers"].items():
            optimizer.state[parameters[name]].update({key: fitting(key, value, 0) for key, value in numbers.items()})
        for entry, tensor in tensors.items():
            name, _, key = entry.rpartition("|")
            parameter = parameters[name]
            if tensor.dim() and tensor.shape != parameter.shape and isinstance(optimizer, ELEMENTWISE):
                raise ValueError(f"{entry} has shape {tuple(tensor.shape)}; expected {tuple(parameter.shape)}")
            if tensor.dim() and tensor.shape == parameter.shape:
                # Laid out as its parameter is: a fused optimizer goes through both as they lie in memory.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            optimizer.state[parameter][key] = tensor.to(parameter.device) if tensor.dim() else tensor
    except UNFITTING as error:
        raise GhostkitError(f"the optimizer stored in {source!r} does not fit: {error!r}") from None
