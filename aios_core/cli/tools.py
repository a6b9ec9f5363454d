"""`aios tools`: which tools there are, what one takes, running one, checking a plug-in.

`list`, `show` and `check` load plug-ins as a kernel does, and start none. `run` starts a
kernel for one call, so what a kernel checks is checked: arguments, privileges, approvals.
The folder that the command is called in is searched for modules last.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aios_core.cli.options import add_config, add_json
from aios_core.cli.printing import print_json, print_wrapped, visible_line, visible_lines
from aios_core.cli.progress import progress
from aios_core.config import KernelConfig, ToolsConfig
from aios_core.distribution import install_from_checkout
from aios_core.shielding import finish_shielded

if TYPE_CHECKING:
    from aios_core.tools.catalog import ToolCatalog
    from aios_core.tools.registry import RegisteredTool
    from aios_core.tools.requests import ToolRun
    from aios_core.tools.tool import Tool

_PIECE: Final = 65_536  # characters of a stored result, at a time


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    listing = actions.add_parser("list", help="list the tools, with their sources and limits")
    add_config(listing)
    add_json(listing)
    listing.set_defaults(call=_list)
    show = actions.add_parser("show", help="show what a tool does and takes, and how to call it")
    add_config(show)
    add_json(show)
    show.add_argument("name", metavar="NAME", help='as "calculator", or "calculator@1"')
    show.set_defaults(call=_show)
    run = actions.add_parser(
        "run",
        help="run a tool as an agent does, and print its result",
        description="Run a tool through a kernel: its arguments are validated, the access policy "
        "applies, and what cannot be undone needs an approval. The exit status is 1 if it fails.",
    )
    add_config(run)
    run.add_argument(
        "--state-dir", metavar="DIR", help="the state directory (default: state.directory)"
    )
    run.add_argument(
        "--agent",
        default="operator",
        metavar="NAME",
        help="the agent that calls (default: operator)",
    )
    run.add_argument("--group", metavar="GROUP", help="the caller's privilege group")
    run.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for the whole call, an approval included"
    )
    run.add_argument("name", metavar="NAME", help='as "calculator", or "calculator@1"')
    run.add_argument(
        "arguments", nargs="?", default="{}", metavar="JSON", help='an object; "-": standard input'
    )
    run.set_defaults(call=_run)
    check = actions.add_parser(
        "check",
        help="load a plug-in as a kernel does, and report what is wrong with it",
        description="Load a plug-in and report what is wrong with it. The exit status is 1 if a "
        "kernel would refuse it.",
    )
    add_config(check)
    add_json(check)
    check.add_argument("source", metavar="SOURCE", help="a file, a module or an installed plug-in")
    check.set_defaults(call=_check)


# --- aios tools list -----------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    config = KernelConfig.load(options.config).tools
    tier = _sandbox(config)

    async def look() -> tuple[list[RegisteredTool], dict[str, str]]:
        async with _catalogue(config) as catalog:
            await catalog.loaded()
            return catalog.registry.visible(None), catalog.problems

    registered_tools, problems = asyncio.run(look())
    if options.json:
        print_json([_facts(registered) for registered in registered_tools])
    elif registered_tools:
        _print_table([(o.tool.id, o.source, describe_tool(o.tool, tier)) for o in registered_tools])
        print_wrapped(_usual(config))
    else:
        print(
            f"no tools; the package aios-plugins has some: {install_from_checkout('aios-plugins')}"
        )
    for name, why in problems.items():
        print(f"aios: {visible_line(f'{name} is not loaded: {why}')}", file=sys.stderr)
    return int(bool(problems))


def describe_tool(tool: Tool, tier: str) -> list[str]:
    """Describe the declared properties of a tool; `tier` is the isolation backend for code."""
    properties = ["changes nothing"] if tool.read_only else ["has effects"]
    if tool.idempotent and not tool.read_only:
        properties.append("may be repeated")
    if tool.irreversible:
        properties.append(f"asks first: {tool.irreversible}")
    if tool.runs_code:
        properties.append(f"needs a sandbox: {tier}")
    if not tool.trusted:
        properties.append("marks its reader")
    return properties + limits_of(tool)


def limits_of(tool: Tool) -> list[str]:
    """Describe the limits that a tool declares."""
    limits = []
    if tool.parallel is not None:
        limits.append(f"{tool.parallel} at once")
    if tool.rate is not None:
        limits.append(f"{tool.rate.calls} calls in {tool.rate.per_s:g} s")
    if tool.exclusive:
        limits.append(f"alone with {', '.join(tool.exclusive)}")
    if tool.timeout_s is not None:
        limits.append(f"{tool.timeout_s:g} s")
    if tool.retries:
        limits.append(f"{tool.retries} retries")
    if tool.isolation == "process":
        limits.append("in a process of its own")
    return limits


def _usual(config: ToolsConfig) -> str:
    return (
        f"By default: {config.timeout_s:g} s an attempt, {config.max_running} "
        f"calls at once ({config.max_running_per_agent} of one agent)."
    )


def _sandbox(config: ToolsConfig) -> str:
    """Return the isolation backend for code on this machine."""
    from aios_core.tools.sandbox import probe_backends  # noqa: PLC0415 - if needed

    there = [
        name for name, (_, tier) in probe_backends(config.sandbox).items() if tier.is_available
    ]
    return there[0] if there else "none here (aios doctor)"


def _facts(registered: RegisteredTool) -> dict[str, Any]:
    from aios_core.tools.manager import declared_by  # noqa: PLC0415 - if needed
    from aios_core.tools.tool import Rate  # noqa: PLC0415

    declared = {
        key: dataclasses.asdict(value) if isinstance(value, Rate) else value
        for key, value in declared_by(registered.tool).items()
    }
    return {
        "name": registered.tool.name,
        "version": registered.tool.version,
        "source": registered.source,
        "description": registered.tool.description,
        "parameters": registered.tool.parameters,
        "declared": declared,
    }


def _print_table(rows: Sequence[tuple[str, str, list[str]]]) -> None:
    """On a terminal as wide as it is; else a line for each, for `grep`."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - `aios --help` needs none of it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        first = max(len(name) for name, _, _ in rows)
        second = max(len(visible_line(source)) for _, source, _ in rows)
        for name, source, properties in rows:
            print(
                f"{name:{first}}  {visible_line(source):{second}}  "
                f"{visible_line('; '.join(properties))}"
            )
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("tool", "from", "properties"):
        table.add_column(heading, overflow="fold")
    for name, source, properties in rows:
        table.add_row(
            Text(name), Text(visible_line(source)), Text(visible_line("; ".join(properties)))
        )
    console.print(table)


# --- aios tools show -----------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    config = KernelConfig.load(options.config).tools

    async def look() -> RegisteredTool:
        async with _catalogue(config) as catalog:
            await catalog.loaded()
            return catalog.registry.resolve(options.name)

    registered = asyncio.run(look())
    tool = registered.tool
    if options.json:
        print_json({**_facts(registered), "example": _example(tool.parameters)})
        return 0
    print(f"{tool.id}, from {visible_line(registered.source)}\n")
    print(visible_lines(tool.description.strip()) or "(it has no description)")
    print(f"\nProperties: {visible_line('; '.join(describe_tool(tool, _sandbox(config))))}.")
    print(_usual(config))
    print("\nArguments (JSON schema):")
    print(visible_lines(json.dumps(tool.parameters, indent=2, ensure_ascii=False)))
    print("\nExample:")
    given = shlex.quote(json.dumps(_example(tool.parameters)))
    print(f"  aios tools run {tool.name} {given}")
    return 0


def _example(schema: Any) -> Any:
    """Return a value that is likely to fit: an example from the schema, else of its type."""
    if not isinstance(schema, dict):
        return "..."
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum", "anyOf", "oneOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            first = schema[key][0]
            return first if key in ("examples", "enum") else _example(first)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        known = schema.get("properties", {})
        return {name: _example(known.get(name, {})) for name in schema.get("required", ())}
    if kind == "array":
        return [_example(schema.get("items", {}))]
    least = schema.get("minimum", 1)
    return {"integer": least, "number": least, "boolean": True, "null": None}.get(str(kind), "...")


# --- aios tools run ------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from aios_core.tools.requests import ToolRun, require_timeout  # noqa: PLC0415 - if needed

    directory = {"directory": options.state_dir} if options.state_dir else {}
    config = KernelConfig.load(options.config, state=directory)
    given: Any = sys.stdin.read() if options.arguments == "-" else options.arguments
    request = ToolRun(options.name, given)  # a mistake in it starts no kernel
    require_timeout(options.timeout)
    _search_here()
    asyncio.run(_answered(options, request, config))
    return 0


async def _answered(options: argparse.Namespace, request: ToolRun, config: KernelConfig) -> None:
    """Print what the tool answers. No core is started: tools have no way to one."""
    from aios_core.cores.scripted import ScriptedCore  # noqa: PLC0415 - if needed
    from aios_core.kernel import Kernel  # noqa: PLC0415
    from aios_core.tools.requests import StoredResult  # noqa: PLC0415

    config = dataclasses.replace(config, fallbacks={}, default_model=None)
    async with Kernel(config, cores=[ScriptedCore("")]) as kernel:
        with progress("starting a kernel for the call"):
            agent = await kernel.aspawn(options.agent, group=options.group)
        result = await agent.port.acall(request, timeout_s=options.timeout)
        if isinstance(result, StoredResult):
            offset = 0
            while piece := await agent.tools.aread(result, offset, _PIECE):
                sys.stdout.write(_shown(piece))
                offset += len(piece)
            print()
        elif isinstance(result, str):
            print(_shown(result))
        else:
            print(_shown(json.dumps(result, indent=2, ensure_ascii=False)))


# --- aios tools check ----------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from aios_core.cli.tool_checks import examined  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config).tools

    async def look() -> list[Any]:
        async with _catalogue(config) as catalog:
            return [finding async for finding in examined(catalog, options.source)]

    findings = asyncio.run(look())
    num_errors = sum(finding.health == "error" for finding in findings)
    if options.json:
        print_json([dataclasses.asdict(finding) for finding in findings])
        return int(bool(num_errors))
    for finding in findings:
        print(f"{finding.health:8}  {visible_line(finding.name)}: {visible_line(finding.message)}")
        if finding.fix:
            print(f"{'':8}  {visible_line(finding.fix)}")
    print(f"{num_errors} broken" if num_errors else "A kernel would load it.")
    return int(bool(num_errors))


# --- what they share -----------------------------------------------------------------------------


@asynccontextmanager
async def _catalogue(config: ToolsConfig) -> AsyncIterator[ToolCatalog]:
    """Enter a tool catalog without a kernel; it is closed afterwards, with its MCP servers."""
    from aios_core.tools.catalog import ToolCatalog  # noqa: PLC0415 - if needed

    _search_here()
    catalog = ToolCatalog(config)
    with _unlogged(), progress("loading the tools"):
        try:
            yield catalog
        finally:
            await finish_shielded(catalog.close())


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep messages that the command prints from being logged too."""
    handler, logger = logging.NullHandler(), logging.getLogger("aios_core.tools")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _search_here() -> None:
    """As `python -m` does, but last: no file here stands in for an installed module."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _shown(result: str) -> str:
    """A result: exactly as it is for a program, harmless for a terminal."""
    return visible_lines(result) if sys.stdout.isatty() else result
