"""`python -m compat_bench.reroute`: a framework's test suite before and after rerouting.

    python -m compat_bench.reroute --list
    python -m compat_bench.reroute langgraph-swarm langchain
    python -m compat_bench.reroute langchain PATH/TO/SUITE [TESTS ...]

Runs a suite as it is, then with the fakes on the kernel, and compares which tests pass. The
suites of the list are fetched from the package index, with what they import. Of another one,
what it imports has to be installed together with AIOS. Writes a JSON file for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from compat_bench.reroute.suites import SUITES, Suite, SuiteUnavailable, environment, fetch

PLUGINS: Final = ("langchain", "autogen", "agent_framework", "llamaindex")
ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of each test, before and after."""

    suite: str
    before: dict[str, int]  # by outcome
    after: dict[str, int]
    lost: list[str]  # passed before, not after
    gained: list[str]
    rerouted: str  # what went through the kernel


@dataclass(frozen=True, slots=True)
class Runner:
    """The settings of a suite's run: its place, its interpreter, its time limit."""

    suite: Path
    tests: Sequence[str]
    limit_s: float
    python: Path = Path(sys.executable)

    def outcomes(self, plugin: str | None) -> tuple[dict[str, str], str]:
        """Outcomes by test, and what was rerouted."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            said = self._run(report, plugin)
            if not report.exists():
                print(said[-2000:], file=sys.stderr)
                return {}, ""
            return read_report(report), _rerouted(said)

    def _run(self, report: Path, plugin: str | None) -> str:
        """Run pytest and return its output."""
        command = [str(self.python), "-m", "pytest", "-q", "--no-header", "-o", "addopts="]
        command += ["-p", "no:cacheprovider", f"--junit-xml={report}", *self.tests]
        if plugin is not None:
            command += ["-p", f"compat_bench.reroute.{plugin}"]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        variables = {"NO_DOCKER": "true", **os.environ, "PYTHONPATH": path}
        try:
            done = subprocess.run(  # noqa: S603 - pytest, on a suite that the user named
                command,
                cwd=self.suite,
                env=variables,
                capture_output=True,
                text=True,
                check=False,
                timeout=self.limit_s,
            )
        except subprocess.TimeoutExpired:
            return f"The suite was not through after {self.limit_s:.0f} s; --limit allows more."
        return done.stdout + done.stderr


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.list:
        print("\n".join(f"{one.distribution:24}{' '.join(one.tests)}" for one in SUITES.values()))
        return 0
    out = Path(options.out).resolve()
    names = options.what
    if names and names[0] in PLUGINS and (len(names) > 1 and names[1] not in SUITES):
        runner = Runner(Path(names[1]).resolve(), names[2:] or ["tests"], options.limit)
        return _compared(runner, names[0], out)
    if unknown := [name for name in names if name not in SUITES]:
        print(f"no suite {unknown[0]!r}; have {sorted(SUITES)}", file=sys.stderr)
        return 2
    return max((_known(SUITES[name], out, options.limit) for name in names or SUITES), default=0)


def compare(suite: str, before: dict[str, str], after: dict[str, str], rerouted: str) -> Comparison:
    """Two runs of one suite: test -> outcome."""
    passed = {name for name, outcome in before.items() if outcome == "passed"}
    passes = {name for name, outcome in after.items() if outcome == "passed"}
    return Comparison(
        suite,
        dict(Counter(before.values())),
        dict(Counter(after.values())),
        sorted(passed - passes),
        sorted(passes - passed),
        rerouted,
    )


def read_report(report: Path) -> dict[str, str]:
    """JUnit's XML, as test -> outcome."""
    outcomes = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        kinds = {child.tag for child in case}
        outcome = next((k for k in ("failure", "error", "skipped") if k in kinds), "passed")
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def _known(suite: Suite, out: Path, limit_s: float) -> int:
    """Fetch a suite that the index has, and run it both ways."""
    folder = out / "suites"
    print(f"{suite.distribution}: fetching its tests and what they import", flush=True)
    try:
        root = fetch(suite, folder)
        python = environment(suite, folder / f"{suite.distribution}.env")
    except SuiteUnavailable as exc:
        print(f"not available: {exc}", file=sys.stderr)
        return 2
    return _compared(Runner(root, suite.tests, limit_s, python), suite.plugin, out)


def _compared(runner: Runner, plugin: str, out: Path) -> int:
    """Run a suite both ways, and show and write what differs."""
    name = runner.suite.name
    if not (runner.suite / runner.tests[0]).exists():
        print(f"{runner.suite} has no {runner.tests[0]}", file=sys.stderr)
        return 2
    print(f"{name}: as it is", flush=True)
    before, _ = runner.outcomes(None)
    print(f"{name}: fakes on the kernel", flush=True)
    after, rerouted = runner.outcomes(plugin)
    found = compare(name, before, after, rerouted)
    _show(found)
    if not after:
        print("The suite did not run the second time; see above.", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 1 if found.lost or not before else 0


def _show(found: Comparison) -> None:
    print(f"  before     {_counts(found.before)}\n  after      {_counts(found.after)}")
    print(f"  rerouted   {found.rerouted}")
    for title, names in (("lost", found.lost), ("gained", found.gained)):
        print(f"  {title:10} {len(names)}")
        for name in names:
            print(f"    {name}")


def _rerouted(output: str) -> str:
    """The plug-in's own line."""
    marked = (line for line in output.splitlines() if line.startswith("rerouted: "))
    return next(marked, "").removeprefix("rerouted: ")


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compat_bench.reroute",
        usage="%(prog)s [SUITE ...] | PLUGIN PATH [TESTS ...]",
        description="Frameworks' test suites as they are, then with their fakes on the kernel.",
        epilog=f"Plug-ins: {', '.join(PLUGINS)}.",
    )
    parser.add_argument("what", nargs="*", help="suites of the list (all), or a plug-in and a path")
    parser.add_argument("--list", action="store_true", help="the suites that the index has")
    parser.add_argument("--limit", type=float, default=3_600, metavar="S", help="of a run (3600)")
    parser.add_argument("--out", default="out/reroute", metavar="DIR", help="(out/reroute)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
