"""Access policies: rules, conditions on arguments, and groups that inherit.

Plain data with pure predicates; `decision.py` combines them and `file.py` reads
them from a file. A rule ignores what it does not mention.

Promise: a condition that cannot be decided (a text where a number is compared, a malformed
address) counts against the request: it holds for rules that deny or ask, and does not hold
for rules that allow.
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

from aios_core.access.policy.operators import OPERATORS
from aios_core.grants import EVERYBODY, GROUP
from aios_core.permissions import Resource, Right
from aios_core.process import DEFAULT_GROUP

NEGATION: Final = "not_"


class Effect(StrEnum):
    """The effect of a rule or decision: allow, ask or deny, from mildest to strictest."""

    ALLOW = "allow"
    ASK = "ask"  # it waits for an approval
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Subject:
    """An agent as rules and grants see it.

    A right of an agent is not a right of its descendants. A denial holds for them too;
    otherwise the agent would only have to spawn one.
    """

    identity: str
    groups: frozenset[str]  # all of its groups, inherited ones included
    family: frozenset[str] = frozenset()  # its identity and its ancestors', without "~2" suffixes
    family_groups: frozenset[str] = frozenset()  # the groups of all of these

    def matches(self, receiver: str) -> bool:
        """Return whether `receiver` (an identity, "group:NAME" or "*") includes this agent."""
        if receiver in (EVERYBODY, self.identity):
            return True
        return receiver.startswith(GROUP) and receiver.removeprefix(GROUP) in self.groups


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one argument. `argument` is a path: "to", "order.amount"."""

    argument: str
    operator: str  # a key of OPERATORS, perhaps with "not_" in front
    operand: Any

    def holds(self, arguments: Mapping[str, Any], *, if_unsure: bool) -> bool:
        """Return whether the condition holds; `if_unsure` if that cannot be decided.

        Of a list, one value is enough for a rule against the request, and all are needed for
        a rule that allows it.
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
    """Yield the values at a path, each item of a list by itself. Keys may contain dots."""
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
    """A rule that allows, denies or asks about the requests that it fits.

    Every part has to fit; one pattern of a part is enough. `agents` are identities
    ("default/bob", "research/*"), "group:NAME" or "*". `resources` are "kind:owner:name",
    see `covers`.
    """

    name: str
    effect: Effect
    agents: tuple[str, ...] = (EVERYBODY,)
    actions: tuple[str, ...] = ("*",)
    rights: frozenset[Right] = frozenset(Right)
    resources: tuple[str, ...] = ("*",)
    labels: tuple[str, ...] = ()  # of data that the agent has read; (): any data
    when: tuple[Condition, ...] = ()
    preapproved: bool = False  # allow irreversible actions too
    reason: str = ""  # shown to the agent that is refused

    def __str__(self) -> str:
        return f"rule {self.name!r}"

    @property
    def is_static(self) -> bool:
        """Whether only the agent, action and resource decide if the rule fits."""
        return not self.labels and not self.when

    def fits_agent(self, subject: Subject) -> bool:
        """Return whether the rule fits an agent; if it denies or asks, descendants fit too."""
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
    """A privilege group: the groups that it inherits rules and grants from, and its members."""

    inherits: tuple[str, ...] = ()
    members: tuple[str, ...] = ()  # identities, in addition to agents spawned in the group


@dataclass(frozen=True, slots=True)
class Policy:
    """All configured rules and groups. The order of rules has no meaning.

    `parent_rights` are the rights of agents over resources of their descendants, and
    `unowned_rights` those of all agents over unowned resources. With `confirm_own_irreversible`,
    an agent also needs an approval to clear its own memory or to purge its own files.
    """

    rules: tuple[Rule, ...] = ()
    groups: Mapping[str, GroupRule] = field(default_factory=dict)
    parent_rights: frozenset[Right] = frozenset({Right.READ})
    unowned_rights: frozenset[Right] = frozenset({Right.READ, Right.WRITE, Right.EXECUTE})
    confirm_own_irreversible: bool = False

    def subject(self, identity: str, group: str, above: Subject | None = None) -> Subject:
        """Describe an agent that was spawned in `group`, by the parent `above` if there is one."""
        groups = self._reached(identity, group)
        name = identity.rpartition("~")[0] or identity
        family = {identity, name} | (above.family if above else set())
        family_groups = groups | (above.family_groups if above else set())
        return Subject(identity, groups, frozenset(family), frozenset(family_groups))

    def about(self, subject: Subject, action: str, right: Right) -> Policy:
        """Return the policy with only the rules that may apply to that agent's action."""
        rules = (rule for rule in self.rules if rule.fits_action(action, right))
        return replace(self, rules=tuple(rule for rule in rules if rule.fits_agent(subject)))

    def subject_named(self, identity: str) -> Subject:
        """Describe the agent of an identity, which names its group and its parents."""
        group, *names = identity.split("/")
        subject, path = None, group
        for name in names:
            path = f"{path}/{name}"
            subject = self.subject(path, unquote(group), subject)
        return subject or self.subject(identity, DEFAULT_GROUP)

    def _reached(self, identity: str, group: str) -> frozenset[str]:
        """Return the groups an agent belongs to: its own, those with it as a member, and theirs."""
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
    """Return whether a name is `above`, or below it: "/a/b" is below "/a", and all below ""."""
    above = above.rstrip("/")
    return not above or name == above or name.startswith(f"{above}/")


def names_above(name: str) -> set[str]:
    """Return all names that a name is below, itself included, without trailing slashes."""
    above = {name[:end] for end, letter in enumerate(name) if letter == "/"}
    return {"", *(one for one in (name, *above) if not one.endswith("/"))}


def covers(pattern: str, resource: Resource) -> bool:
    """Return whether a pattern "kind:owner:name" includes the resource.

    An omitted part matches anything. The owner "" matches unowned resources. A name includes
    everything below it, and every version of a tool; `*` and `?` match any characters.
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
    """Return whether a text matches a pattern, with regard to case."""
    if pattern in ("*", text):
        return True
    compiled = _compiled(pattern)
    return compiled is not None and compiled.match(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a pattern; None for a text without wildcards."""
    return re.compile(translate(pattern)) if any(map(pattern.count, "*?[")) else None


def _fits_agent(pattern: str, names: AbstractSet[str], groups: AbstractSet[str]) -> bool:
    if pattern.startswith(GROUP):
        return pattern.removeprefix(GROUP) in groups
    return any(matches(pattern, name) for name in names)
