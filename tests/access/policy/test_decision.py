"""The decision: deny goes before all, nothing allows by being taken away, order means nothing."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aios_core.access.policy.decision import decide, resolve_rights
from aios_core.access.policy.grants import GrantIndex, supported_grants
from aios_core.access.policy.rules import Condition, Effect, Policy, Rule, is_below, names_above
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right

IDENTITIES = ["g/a", "g/b", "h/a", "g/a/child"]
NAMES = ["", "x", "x/y", "z"]
LENIENCY = {Effect.DENY: 0, Effect.ASK: 1, Effect.ALLOW: 2}

identities = st.sampled_from(IDENTITIES)
rights = st.sampled_from(list(Right))
resources = st.builds(
    Resource, st.sampled_from(["memory", "tool"]), st.none() | identities, st.sampled_from(NAMES)
)
accesses = st.builds(
    Access,
    st.sampled_from(["memory.read", "memory.write", "tool.run"]),
    rights,
    resources,
    st.fixed_dictionaries({"amount": st.integers(0, 3)}),
    st.none() | st.just("it is gone"),
)
conditions = st.builds(
    Condition, st.just("amount"), st.sampled_from(["above", "not_above"]), st.integers(0, 3)
)


def rules(effects: Any = None) -> Any:
    return st.builds(
        Rule,
        st.uuids().map(str),
        st.sampled_from(list(Effect)) if effects is None else st.just(effects),
        st.lists(st.sampled_from(["*", "g/*", "group:g", *IDENTITIES]), min_size=1).map(tuple),
        st.lists(st.sampled_from(["*", "memory.*", "tool.run"]), min_size=1).map(tuple),
        st.frozensets(rights, min_size=1),
        st.lists(st.sampled_from(["*", "memory:g/a:x", "tool::"]), min_size=1).map(tuple),
        st.sampled_from([(), ("web",)]),
        st.lists(conditions, max_size=1).map(tuple),
    )


grants = st.builds(
    Grant,
    st.builds(Resource, st.just("memory"), identities, st.sampled_from(NAMES)),
    st.sampled_from(["*", "group:g", *IDENTITIES]),
    st.frozensets(rights, min_size=1),
    identities,
    st.just(0.0),
    st.none() | st.floats(0, 100),
)
labels = st.frozensets(st.sampled_from(["web", "mail"]))


def leniency(
    identity: str,
    access: Access,
    seen: frozenset[str],
    policy: tuple[Rule, ...],
    given_: list[Grant],
) -> int:
    built = Policy(policy)
    subject = built.subject_named(identity)
    return LENIENCY[decide(subject, access, seen, built, given_, now=50.0).effect]


@given(identities, accesses, labels, st.lists(rules()), st.lists(grants), rules(Effect.DENY))
def test_one_more_rule_that_denies_never_allows_more(  # noqa: PLR0917 - drawn by Hypothesis
    who: str, access: Access, seen: frozenset[str], before: Any, shared: Any, denying: Rule
) -> None:
    old = leniency(who, access, seen, tuple(before), shared)

    assert leniency(who, access, seen, (*before, denying), shared) <= old


@given(identities, accesses, labels, st.lists(rules()), st.lists(grants, min_size=1))
def test_one_grant_less_never_allows_more(
    who: str, access: Access, seen: frozenset[str], before: Any, shared: Any
) -> None:
    old = leniency(who, access, seen, tuple(before), shared)

    assert leniency(who, access, seen, tuple(before), shared[1:]) <= old


@given(identities, accesses, labels, st.lists(rules()), st.lists(grants), st.randoms())
def test_the_order_of_rules_and_grants_does_not_matter(  # noqa: PLR0917 - drawn by Hypothesis
    who: str,
    access: Access,
    seen: frozenset[str],
    before: Any,
    shared: Any,
    rng: random.Random,
) -> None:
    old = leniency(who, access, seen, tuple(before), shared)
    rng.shuffle(before)
    rng.shuffle(shared)

    assert leniency(who, access, seen, tuple(before), shared) == old


@given(identities, accesses, labels)
def test_without_rules_and_grants_nothing_of_anothers_is_allowed(
    who: str, access: Access, seen: frozenset[str]
) -> None:
    owner = access.resource.owner
    allowed = leniency(who, access, seen, (), [])

    if owner is not None and owner != who and not owner.startswith(f"{who}/"):
        assert allowed == LENIENCY[Effect.DENY]


@given(identities, accesses, labels, st.lists(rules(Effect.ALLOW)), st.lists(grants))
def test_a_rule_that_denies_everything_denies_everything(
    who: str, access: Access, seen: frozenset[str], allowing: Any, shared: Any
) -> None:
    all_of_it = Rule("all", Effect.DENY)

    assert leniency(who, access, seen, (*allowing, all_of_it), shared) == 0


# --- looking up rules and grants -----------------------------------------------------------------

paths = st.text("/ab", max_size=6)


@given(paths, st.lists(paths, max_size=8))
def test_the_names_above_a_name_are_all_that_it_is_below(name: str, others: list[str]) -> None:
    above = names_above(name)

    for other in (*others, *above):
        assert (other.rstrip("/") in above) == is_below(name, other)


@given(identities, accesses, st.lists(rules()), st.lists(grants))
def test_what_is_looked_up_decides_as_all_rules_and_grants_do(
    who: str, access: Access, before: Any, shared: Any
) -> None:
    policy, index = Policy(tuple(before)), GrantIndex(shared)
    index.refresh(policy, 0.0)
    subject = policy.subject_named(who)
    in_force = supported_grants(index, policy, 0.0)

    narrowed = policy.about(subject, access.action, access.right)
    looked_up = resolve_rights(subject, access, narrowed, index.on(access.resource), now=0.0)

    assert looked_up == resolve_rights(subject, access, policy, in_force, now=0.0)
