"""`aios access`: whether an agent may do something, and why.

It opens the state directory, so the kernel that uses it has to be closed first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from aios_core.cli.options import add_json, add_state, state_opener
from aios_core.cli.printing import print_json
from aios_core.cli.progress import progress
from aios_core.config import KernelConfig
from aios_core.errors import InvalidRequest
from aios_core.shielding import finish_shielded

if TYPE_CHECKING:
    from aios_core.access import Explanation


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    explain = actions.add_parser(
        "explain",
        help="show whether an agent may do something, and each rule that was considered",
        description="Show whether an agent may do something, and why. The exit status is 1 if not.",
    )
    add_state(explain)
    add_json(explain)
    explain.add_argument("--agent", required=True, metavar="IDENTITY", help='as "default/bob"')
    explain.add_argument("--action", required=True, metavar="KIND", help='as "memory.read"')
    explain.add_argument(
        "--resource", required=True, metavar="RESOURCE", help='as "memory:default/alice:notes"'
    )
    explain.add_argument("--right", metavar="RIGHT", help="read, write, execute or share")
    explain.add_argument(
        "--arguments",
        default="{}",
        metavar="JSON",
        help="the arguments of the action, for rules about them",
    )
    explain.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="LABEL",
        help="a label of the data that the agent has read (repeatable)",
    )
    explain.set_defaults(call=_explain)


def _explain(options: argparse.Namespace) -> int:
    from aios_core.access import AccessManager, Effect, explain_in_words  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config)
    arguments = _json_object(options.arguments)

    async def look() -> Any:
        opener = state_opener(config, options.state_dir)
        manager = AccessManager(config.access, opener)
        try:
            await manager.reload()
            return await explain_in_words(
                manager,
                options.agent,
                options.action,
                options.resource,
                right=options.right,
                arguments=arguments,
                labels=options.label,
            )
        finally:
            try:
                await finish_shielded(manager.close())
            finally:
                await finish_shielded(opener.close())

    with progress("opening the state directory"):
        explanation = asyncio.run(look())
    if options.json:
        print_json(_facts(explanation))
    else:
        print(explanation)
    return int(explanation.decision.effect is Effect.DENY)


def _facts(explanation: Explanation) -> dict[str, Any]:
    subject, access, decision = explanation.subject, explanation.access, explanation.decision
    return {
        "effect": decision.effect.value,
        "why": decision.why,
        "agent": subject.identity,
        "groups": sorted(subject.groups),
        "action": access.action,
        "right": str(access.right),
        "resource": str(access.resource),
        "considered": [
            {"what": one.what, "fits": one.fits, "result": one.reason}
            for one in explanation.considered
        ],
    }


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidRequest(f"--arguments: not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"--arguments: got {text}; allowed: a JSON object")
    return value
