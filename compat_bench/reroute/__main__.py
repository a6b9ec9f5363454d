"""`python -m compat_bench.reroute PLUGIN SUITE`: a test suite before and after rerouting.

    pip download --no-binary :all: --no-deps langgraph-prebuilt
    tar xf langgraph_prebuilt-*.tar.gz
    python -m compat_bench.reroute langchain langgraph_prebuilt-*/

Runs the suite as it is, then with the fakes on the kernel, and compares which tests
pass. What the suite needs has to be installed beside AIOS. Writes a JSON file.
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

PLUGINS: Final = ("langchain", "autogen", "llamaindex")
ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of each test, before and after."""

    suite: str
    before: dict[str, int]  # by outcome
    after: dict[str, int]
    lost: list[str]  # passed before, not after
    gained: list[str]
    rerouted: str  # what went through the kernel


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    suite = Path(options.suite).resolve()
    if not (suite / options.tests[0]).exists():
        print(f"{suite} has no {options.tests[0]}", file=sys.stderr)
        return 2
    print(f"{suite.name}: as it is")
    before, _ = _run(suite, options.tests, None)
    print(f"{suite.name}: fakes on the kernel")
    after, rerouted = _run(suite, options.tests, options.plugin)
    found = compare(suite.name, before, after, rerouted)
    print(f"  before     {_counts(found.before)}\n  after      {_counts(found.after)}")
    print(f"  rerouted   {found.rerouted}")
    if not after:
        print("The suite did not run the second time; see above.", file=sys.stderr)
        return 2
    for title, names in (("lost", found.lost), ("gained", found.gained)):
        print(f"  {title:10} {len(names)}")
        for name in names:
            print(f"    {name}")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{suite.name}.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 1 if found.lost or not before else 0


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


def _run(suite: Path, tests: Sequence[str], plugin: str | None) -> tuple[dict[str, str], str]:
    """Outcomes by test, and what was rerouted."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-o", "addopts="]
        command += ["-p", "no:cacheprovider", f"--junit-xml={report}", *tests]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"NO_DOCKER": "true", **os.environ, "PYTHONPATH": path}
        if plugin is not None:
            command += ["-p", f"compat_bench.reroute.{plugin}"]
        done = subprocess.run(  # noqa: S603 - pytest, on a suite that the user named
            command, cwd=suite, env=environment, capture_output=True, text=True, check=False
        )
        if not report.exists():
            print(done.stdout[-2000:] + done.stderr[-2000:], file=sys.stderr)
            return {}, ""
        return read_report(report), _rerouted(done.stdout)


def read_report(report: Path) -> dict[str, str]:
    """JUnit's XML, as test -> outcome."""
    outcomes = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        kinds = {child.tag for child in case}
        outcome = next((k for k in ("failure", "error", "skipped") if k in kinds), "passed")
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def _rerouted(output: str) -> str:
    """The plug-in's own line."""
    marked = (line for line in output.splitlines() if line.startswith("rerouted: "))
    return next(marked, "").removeprefix("rerouted: ")


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compat_bench.reroute",
        description="A framework's test suite as it is, then with its fakes on the kernel.",
    )
    parser.add_argument("plugin", choices=PLUGINS, help="whose fakes")
    parser.add_argument("suite", help="a folder with the suite, such as an unpacked source archive")
    parser.add_argument("tests", nargs="*", default=["tests"], help="files of it (tests)")
    parser.add_argument("--out", default="out/reroute", metavar="DIR", help="(out/reroute)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
