"""Decide who may do what: rules, groups, grants, and the reasons of a decision.

rules       the parts of a policy; `file` reads them from TOML
operators   conditions on arguments
decision    the decision itself, a pure function; `explain` gives its reasons
privileges  the policy and grants in force, and decisions that were made before
grants      all grants; `grant_writer` changes them, `grant_warnings` finds doubtful ones
"""
