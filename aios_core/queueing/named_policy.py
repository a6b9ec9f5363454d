"""Build scheduling policies by name, with the settings of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from aios_core.config import SchedulerConfig
from aios_core.config_decoder import Place, decode, is_decodable
from aios_core.errors import ConfigError
from aios_core.extensions import POLICIES
from aios_core.queueing.policy import Policy
from aios_core.suggestions import unknown_name
from aios_core.untrusted.third_party import RAISED, describe_on_worker, pass_on

_COMMON = ("quantum", "max_wait_s")  # keys of `[scheduler]` itself, since every policy has them


def build_policy(name: str, settings: SchedulerConfig) -> Policy:
    """Build the policy of a name, with its settings from `[scheduler]`.

    `[scheduler.options]` applies to the configured policy only; others get the common settings.

    Raises:
        ConfigError: a setting is wrong, or the policy of a third-party package cannot be used;
            the error names the key or the package.
    """
    place = Place("scheduler", "")
    policy = _made(name, place.at("policy"))
    options = dict(settings.options) if name == settings.policy else {}
    for key in _COMMON:
        if (value := getattr(settings, key)) is None:
            continue
        if key in options:
            twice = f"no value, since scheduler.{key} has one"
            raise place.at("options").at(key).refuse(options[key], twice)
        options[key] = value
    return with_options(policy, options, place.at("options"))


def with_options(policy: Policy, options: Mapping[str, Any], place: Place) -> Policy:
    """Set fields of a policy; a field that is itself a policy takes a table of its fields.

    Raises `ConfigError` that names the field, what it was and what it may be.
    """
    if not options:
        return policy
    hints = _hints(policy)
    changes = {
        name: _changed(policy, name, value, hints, place.at(name))
        for name, value in options.items()
    }
    try:
        return replace(policy, **changes)
    except ConfigError:
        raise
    except RAISED as exc:
        pass_on(exc)
        why = f"settings that {type(policy).__name__} accepts: {describe_on_worker(exc)}"
        raise place.refuse(dict(options), why) from exc


def _made(name: str, place: Place) -> Policy:
    make = POLICIES.load(name, place)
    try:
        policy = make()
    except RAISED as exc:
        pass_on(exc)
        allowed = f"a policy that can be made: {describe_on_worker(exc)}"
        raise place.refuse(name, allowed) from exc
    if not isinstance(policy, Policy):
        raise place.refuse(name, "a policy with an entry point that is a subclass of Policy")
    return policy


def _hints(policy: Policy) -> Mapping[str, Any]:
    hints = get_type_hints(type(policy), include_extras=True)
    return {item.name: hints[item.name] for item in fields(policy) if item.init}


def _changed(policy: Policy, name: str, value: Any, hints: Mapping[str, Any], place: Place) -> Any:
    if name not in hints:
        raise place.refuse(value, unknown_name("option", name, hints))
    current = getattr(policy, name)
    if isinstance(current, Policy) and isinstance(value, Mapping):
        return with_options(current, value, place)
    return decode(hints[name], value, place) if is_decodable(hints[name]) else value
