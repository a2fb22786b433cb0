"""What a person may change about growth while a run goes on: when, where and how much, never what was done already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ghostkit.config import RunConfig
from ghostkit.engine import Engine
from ghostkit.errors import GhostkitError

__all__ = ["STEERED", "differing", "follow", "steered"]

OF_POLICY = ("when", "where", "grow_every", "grow_from", "grow_until", "patience", "ratio", "share", "window")
OF_BUDGET = ("budget_params", "budget_macs", "budget_milliseconds")
STEERED = (*OF_POLICY, "roll_back", "give_up", "images_per_parameter", *OF_BUDGET)


def steered(engine: Engine) -> dict[str, Any]:
    """Return what can be changed, by the names of the configuration, as it is now."""
    now = asdict(engine.policy) | {f"budget_{unit}": limit for unit, limit in asdict(engine.budget).items()}
    return {name: now[name] for name in STEERED}


def differing(engine: Engine, config: RunConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``values`` that would change something, validated as in a configuration.

    Args:
        engine: what is to be steered.
        config: the configuration of the run, with what was changed by hand so far.
        values: what is asked for, by the names of the configuration.

    Raises:
        GhostkitError: if a name cannot be changed while a run goes on, or a value does not fit.
    """
    unknown = sorted(set(values) - set(STEERED))
    if unknown:
        raise GhostkitError(f"{unknown[0]!r} cannot be changed while a run goes on; expected {', '.join(STEERED)}")
    wanted, now = config.changed(**values), steered(engine)
    names = dict.fromkeys([*values, *(["grow_until"] if "when" in values else [])])  # whose default follows `when`
    return {name: getattr(wanted, name) for name in names if getattr(wanted, name) != now[name]}


def follow(engine: Engine, values: Mapping[str, Any], progress: float) -> None:
    """Let ``engine`` go by ``values`` from now on.

    Args:
        engine: is changed in place.
        values: validated ones.
        progress: share of the run done.
    """
    policy = {name: value for name, value in values.items() if name not in OF_BUDGET}
    limits = {name.removeprefix("budget_"): values[name] for name in OF_BUDGET if name in values}
    engine.policy, engine.budget = replace(engine.policy, **policy), replace(engine.budget, **limits)
    state = engine.state
    state.idle = 0  # with another policy or budget, growth gets another chance
    if state.next_at is not None:
        state.next_at = min(state.next_at, progress + engine.policy.grow_every)
    if not {"where", "roll_back"}.isdisjoint(values):  # what was to be settled in the old way stays as it is
        state.settle_at, engine.snapshot = None, None
