"""What a policy consists of: rules, conditions on arguments, and groups that inherit.

Plain data with pure predicates; `decision.py` puts them together and `policy_file.py`
reads them from a file. What a rule does not mention it does not look at.

Promise: a condition that cannot be decided (a text where a number is compared, an
address that is none) counts against the request: it holds for rules that deny or
ask and does not hold for rules that allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from aios_core.access.operators import OPERATORS
from aios_core.grants import EVERYBODY, GROUP
from aios_core.permissions import Resource, Right
from aios_core.process import DEFAULT_GROUP

NEGATION: Final = "not_"


class Effect(StrEnum):
    """What becomes of a request, the mildest first."""

    ALLOW = "allow"
    ASK = "ask"  # it waits until somebody approves it
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks.

    What is allowed to an agent is not allowed to its descendants by that; what is
    denied to it is denied to them, or it would only have to spawn one.
    """

    identity: str
    groups: frozenset[str]  # all of its groups, inherited ones included
    family: frozenset[str] = frozenset()  # its identity and those above it, "~2" and the like off
    family_groups: frozenset[str] = frozenset()  # the groups of all of these

    def is_meant_by(self, receiver: str) -> bool:
        """Return whether a grant to `receiver` (an identity, "group:NAME" or "*") is one to it."""
        if receiver in (EVERYBODY, self.identity):
            return True
        return receiver.startswith(GROUP) and receiver.removeprefix(GROUP) in self.groups


@dataclass(frozen=True, slots=True)
class Condition:
    """Something about one argument. `argument` is a path: "to", "order.amount"."""

    argument: str
    operator: str  # a key of OPERATORS, perhaps with "not_" in front
    operand: Any

    def holds(self, arguments: Mapping[str, Any], *, if_unsure: bool) -> bool:
        """Return whether it holds, for a rule that is against the request if `if_unsure`.

        Of a list, one value is enough to be against it, and all are needed to be for it.
        """
        is_negated = self.operator.startswith(NEGATION)
        test = OPERATORS[self.operator.removeprefix(NEGATION)].test
        values = list(_values(arguments, self.argument.split(".")))
        if not values:
            return if_unsure and is_negated
        answers = (_settled(test, value, self.operand, is_negated, if_unsure) for value in values)
        return any(answers) if if_unsure else all(answers)

    def __str__(self) -> str:
        return f"{self.argument} {self.operator} {self.operand!r}"


def _settled(
    test: Callable[[Any, Any], bool | None],
    value: Any,
    operand: Any,
    is_negated: bool,
    if_unsure: bool,
) -> bool:
    answer = test(value, operand)
    return if_unsure if answer is None else answer is not is_negated


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """The values at a path, those of lists one by one. A key may hold dots itself."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, path)
    elif not path:
        yield value
    elif isinstance(value, Mapping):
        for length in range(1, len(path) + 1):
            key = ".".join(path[:length])
            if key in value:
                yield from _values(value[key], path[length:])


@dataclass(frozen=True, slots=True)
class Rule:
    """Who, doing what to what, under which conditions, is allowed, asked about or denied.

    Every part has to fit; of a part's patterns one is enough. `agents`: identities
    ("default/bob", "research/*"), "group:NAME" or "*". `resources`: "kind:owner:name",
    see `covers`.
    """

    name: str
    effect: Effect
    agents: tuple[str, ...] = (EVERYBODY,)
    actions: tuple[str, ...] = ("*",)
    rights: frozenset[Right] = frozenset(Right)
    resources: tuple[str, ...] = ("*",)
    labels: tuple[str, ...] = ()  # of data that the agent has read; (): whatever it has read
    when: tuple[Condition, ...] = ()
    preapproved: bool = False  # allow, also what cannot be undone
    reason: str = ""  # told to who is refused

    def __str__(self) -> str:
        return f"rule {self.name!r}"

    @property
    def is_static(self) -> bool:
        """Whether it looks at the agent, action and resource alone."""
        return not self.labels and not self.when

    def fits_agent(self, subject: Subject) -> bool:
        """Return whether it means the agent; one that denies or asks means its descendants too."""
        names, groups = frozenset((subject.identity,)), subject.groups
        if self.effect is not Effect.ALLOW:
            names, groups = names | subject.family, groups | subject.family_groups
        return any(_fits_agent(pattern, names, groups) for pattern in self.agents)

    def fits_action(self, action: str, right: Right) -> bool:
        return right in self.rights and any(matches(pattern, action) for pattern in self.actions)

    def fits_resource(self, resource: Resource) -> bool:
        return any(covers(pattern, resource) for pattern in self.resources)

    def fits_labels(self, labels: AbstractSet[str]) -> bool:
        if not self.labels:
            return True
        return any(matches(pattern, label) for pattern in self.labels for label in labels)

    def fits_arguments(self, arguments: Mapping[str, Any]) -> bool:
        is_against = self.effect is not Effect.ALLOW
        return all(one.holds(arguments, if_unsure=is_against) for one in self.when)


@dataclass(frozen=True, slots=True)
class GroupRule:
    """A privilege group: whose rules and grants count for its members too, and who is in it."""

    inherits: tuple[str, ...] = ()
    members: tuple[str, ...] = ()  # identities besides those that were spawned in it


@dataclass(frozen=True, slots=True)
class Policy:
    """All that is said beforehand. The order of rules means nothing.

    `parents` are the rights of agents over what belongs to their descendants, and
    `common` those of everybody over what is nobody's. `ask_owners`: whether an agent
    also waits for an approval before it clears its own memory or purges its own files.
    """

    rules: tuple[Rule, ...] = ()
    groups: Mapping[str, GroupRule] = field(default_factory=dict)
    parents: frozenset[Right] = frozenset({Right.READ})
    common: frozenset[Right] = frozenset({Right.READ, Right.WRITE, Right.EXECUTE})
    ask_owners: bool = False

    def subject(self, identity: str, group: str, above: Subject | None = None) -> Subject:
        """An agent that was spawned in `group`, by `above` if it has a parent."""
        groups = self._reached(identity, group)
        name = identity.rpartition("~")[0] or identity
        family = {identity, name} | (above.family if above else set())
        family_groups = groups | (above.family_groups if above else set())
        return Subject(identity, groups, frozenset(family), frozenset(family_groups))

    def about(self, subject: Subject, action: str, right: Right) -> Policy:
        """The same policy with the rules alone that may matter to that agent's action."""
        rules = (rule for rule in self.rules if rule.fits_action(action, right))
        return replace(self, rules=tuple(rule for rule in rules if rule.fits_agent(subject)))

    def subject_named(self, identity: str) -> Subject:
        """The agent of that identity, as its identity tells its groups."""
        group, *names = identity.split("/")
        subject, path = None, group
        for name in names:
            path = f"{path}/{name}"
            subject = self.subject(path, unquote(group), subject)
        return subject or self.subject(identity, DEFAULT_GROUP)

    def _reached(self, identity: str, group: str) -> frozenset[str]:
        """Its groups: by its birth, by membership, and by inheritance from these."""
        reached: set[str] = set()
        waiting = [group]
        waiting += [
            name
            for name, rule in self.groups.items()
            if any(matches(pattern, identity) for pattern in rule.members)
        ]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self.groups[name].inherits if name in self.groups else ()
        return frozenset(reached)


def is_below(name: str, above: str) -> bool:
    """Whether a name is `above` or below it: "/docs/a" is below "/docs", all are below ""."""
    above = above.rstrip("/")
    return not above or name == above or name.startswith(f"{above}/")


def names_above(name: str) -> set[str]:
    """All names that a name `is_below`, itself among them, without slashes at their ends."""
    above = {name[:end] for end, letter in enumerate(name) if letter == "/"}
    return {"", *(one for one in (name, *above) if not one.endswith("/"))}


def covers(pattern: str, resource: Resource) -> bool:
    """Return whether a pattern "kind:owner:name" means the resource.

    Parts that are left out mean any. The owner "" means nobody, the name what is below
    it too, a tool's every version; `*` and `?` stand for any characters.
    """
    kind, owner, name = _parts(pattern)
    return (
        matches(kind, resource.kind)
        and matches(owner, resource.owner or "")
        and (name is None or _covers_name(name, resource))
    )


@lru_cache(maxsize=4096)
def _parts(pattern: str) -> tuple[str, str, str | None]:
    kind, owner, name = (*pattern.split(":", 2), None, None)[:3]
    return kind or "", "*" if owner is None else owner, name


def _covers_name(pattern: str, resource: Resource) -> bool:
    name = resource.name
    if is_below(name, pattern) or matches(pattern, name):
        return True
    tool, at, _version = name.partition("@")
    return bool(at) and resource.kind == "tool" and matches(pattern, tool)


def matches(pattern: str, text: str) -> bool:
    """Return whether a text is what the pattern says; letters of different case are different."""
    if pattern in ("*", text):
        return True
    compiled = _compiled(pattern)
    return compiled is not None and compiled.match(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """None for a text without a letter that stands for others."""
    return re.compile(translate(pattern)) if any(map(pattern.count, "*?[")) else None


def _fits_agent(pattern: str, names: AbstractSet[str], groups: AbstractSet[str]) -> bool:
    if pattern.startswith(GROUP):
        return pattern.removeprefix(GROUP) in groups
    return any(matches(pattern, name) for name in names)
