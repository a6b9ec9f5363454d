"""Privileges: who may do what to what, who was asked, and what became of it."""

from aios_core.access.owners import OwnersOnly

__all__ = ["OwnersOnly"]
