"""`aios access`, `aios approvals` and `aios audit`: what people do about privileges.

They work on the state directory of the configuration. `access explain` opens it, so the
kernel that uses it has to be closed (or a copy is looked at); `audit` only reads in it,
and `approvals` answers a kernel that waits.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aios_core.config import KernelConfig
from aios_core.errors import InvalidRequest

if TYPE_CHECKING:
    from aios_core.access.inspection import Inspection
    from aios_core.access.mailbox import Mailbox

_SHOWN: Final = 20  # records of the trail, if nobody says how many

Parsers = Any  # argparse's own type has no public name


def add_parsers(commands: Parsers) -> None:
    _add_access(commands)
    _add_approvals(commands)
    _add_audit(commands)


# --- aios access ---------------------------------------------------------------------------------


def _add_access(commands: Parsers) -> None:
    parser = commands.add_parser("access", help="ask who may do what, and why")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    explain = actions.add_parser(
        "explain",
        help="whether an agent may do something, and each thing that was considered",
        description="Say whether an agent may do something, and why. The exit status is 1 if not.",
    )
    _add_common(explain)
    explain.add_argument("--agent", required=True, metavar="IDENTITY", help='as "default/bob"')
    explain.add_argument("--action", required=True, metavar="KIND", help='as "memory.read"')
    explain.add_argument(
        "--resource", required=True, metavar="RESOURCE", help='as "memory:default/alice:notes"'
    )
    explain.add_argument("--right", metavar="RIGHT", help="read, write, execute or share")
    explain.add_argument("--arguments", default="{}", metavar="JSON", help="for rules about them")
    explain.add_argument("--label", action="append", default=[], metavar="LABEL", help="of data")
    explain.set_defaults(call=_explain)


def _explain(options: argparse.Namespace) -> int:
    from aios_core.access import AccessManager, Effect, explained  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config)
    arguments = _json_object(options.arguments)

    async def look() -> Any:
        opener = _opener(config, options.state)
        manager = AccessManager(config.access, opener)
        try:
            await manager.reload()
            return await explained(
                manager,
                options.agent,
                options.action,
                options.resource,
                right=options.right,
                arguments=arguments,
                labels=options.label,
            )
        finally:
            await manager.close()
            await opener.close()

    explanation = asyncio.run(look())
    print(explanation)
    return int(explanation.decision.effect is Effect.DENY)


# --- aios approvals ------------------------------------------------------------------------------


def _add_approvals(commands: Parsers) -> None:
    parser = commands.add_parser("approvals", help="see and answer what waits for an approval")
    actions = parser.add_subparsers(metavar="ACTION")
    _add_common(parser)
    parser.set_defaults(call=_list)
    listing = actions.add_parser("list", help="what waits (also without an action)")
    _add_common(listing)
    listing.set_defaults(call=_list)
    for verb, is_approved in (("approve", True), ("deny", False)):
        answer = actions.add_parser(verb, help=f"{verb} one that waits")
        _add_common(answer)
        answer.add_argument("id", metavar="ID", help="of the question, or its beginning")
        answer.add_argument("--reason", default="", metavar="TEXT", help="told to who asked")
        answer.set_defaults(call=_answer, is_approved=is_approved)


def _list(options: argparse.Namespace) -> int:
    mailbox = _mailbox(options)
    waiting = mailbox.waiting(time.time()) if mailbox else []
    for request in waiting:
        left = max(0.0, request.expires_at - time.time())
        print(f"{request.id}  {request}\n    {request.why}; ends in {left:.0f} s")
    if not waiting:
        print("nothing waits for an approval")
    return 0


def _answer(options: argparse.Namespace) -> int:
    from aios_core.access import ApprovalAnswer  # noqa: PLC0415 - if needed

    mailbox = _mailbox(options)
    if mailbox is None:
        raise InvalidRequest("nothing waits for an approval")
    request = mailbox.find(options.id, time.time())
    answer = ApprovalAnswer(options.is_approved, getpass.getuser(), options.reason)
    mailbox.answer(request, answer)
    print(f"{'approved' if options.is_approved else 'denied'}: {request}")
    return 0


def _mailbox(options: argparse.Namespace) -> Mailbox | None:
    """The approvals of the state directory; None if there are none yet."""
    from aios_core.access.mailbox import Mailbox  # noqa: PLC0415 - if needed
    from aios_core.state import read_key, vault_of  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config)
    where = Path(config.state.path()).expanduser()  # perhaps no kernel has made it yet
    directory = _existing(options.state) if options.state else where
    mailbox = Mailbox(directory, vault_of(read_key(config.state.encryption_key)))
    return mailbox if mailbox.directory.is_dir() else None


# --- aios audit ----------------------------------------------------------------------------------


def _add_audit(commands: Parsers) -> None:
    parser = commands.add_parser("audit", help="verify or read the audit trail")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    verify = actions.add_parser(
        "verify",
        help="look for edits, removals, changes of order and a cut end",
        description="Look at the whole audit trail. The exit status is 1 if it was tampered with.",
    )
    _add_common(verify)
    verify.add_argument("--anchor", metavar="FILE", help="instead of access.audit_anchor")
    verify.set_defaults(call=_verify)
    show = actions.add_parser("show", help="the latest records, a line of JSON each")
    _add_common(show)
    show.add_argument("-n", type=int, default=_SHOWN, metavar="N", help=f"how many ({_SHOWN})")
    show.add_argument("--agent", metavar="IDENTITY", help="only of this agent")
    show.set_defaults(call=_show)


def _verify(options: argparse.Namespace) -> int:
    from aios_core.access.anchor import read_anchor  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config)
    anchor = options.anchor or config.access.audit_anchor
    trail = _inspected(config, options.state)
    heads = read_anchor(Path(anchor).expanduser()) if anchor else []
    report = trail.verified(heads)
    for line in (*report.faults, *report.notes):
        print(line)
    if report.num_records and not heads and not trail.heads:
        print("no head vouches for the end of the trail")
        return 1
    if report.is_intact:
        print(f"{report.num_records} records, all as they were written")
    return int(not report.is_intact)


def _show(options: argparse.Namespace) -> int:
    trail = _inspected(KernelConfig.load(options.config), options.state)
    records = [(row.number, trail.content(row)) for row in trail.rows]
    chosen = [
        (number, record)
        for number, record in records
        if options.agent is None or record is None or record.get("agent") == options.agent
    ]
    is_damaged = False
    for number, record in chosen[-options.n :] if options.n > 0 else []:
        is_damaged |= record is None
        told = {"fault": "not what was written there"} if record is None else record
        print(json.dumps({"number": number, **told}, ensure_ascii=False))
    return int(is_damaged)


# --- what they share -----------------------------------------------------------------------------


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="instead of ./aios.toml")
    parser.add_argument("--state", metavar="DIR", help="instead of state.directory")


def _opener(config: KernelConfig, directory: str | None) -> Any:
    from aios_core.state import StateOpener, read_key  # noqa: PLC0415 - if needed

    where = directory or config.state.path()
    return StateOpener(where, lambda: read_key(config.state.encryption_key))


def _inspected(config: KernelConfig, directory: str | None) -> Inspection:
    from aios_core.access.inspection import Inspection  # noqa: PLC0415 - if needed
    from aios_core.state import read_key, vault_of  # noqa: PLC0415

    vault = vault_of(read_key(config.state.encryption_key))
    return Inspection(_existing(directory or config.state.path()), vault)


def _existing(directory: str | Path) -> Path:
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise InvalidRequest(f"there is no state directory {path}")
    return path


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidRequest(f"--arguments: not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"--arguments: got {text}; allowed: a JSON object")
    return value
