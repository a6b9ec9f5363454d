"""Decide who may do what, and explain the decision.

    rules           the parts of a policy: rules, groups, conditions
    file            read a policy from TOML
    operators       conditions on arguments, such as `amount = {above = 100}`
    decision        decide: pure functions of a request, the policy and the grants
    explain         list everything that a decision considered
    privileges      the policy and grants in force, with a cache of derived rights
    grants          all grants, in memory and in the database
    grant_writer    change grants durably
    grant_warnings  warn of grants that name something that does not exist

`aios_core.access.gate` applies the decisions to requests.
"""
