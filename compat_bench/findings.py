"""State the findings of a run in sentences, and what its model cannot show."""

from __future__ import annotations

from typing import Final

from compat_bench.records import ALONE, BARE, KERNEL, NATIVE, LoadRow, Results, mean

#: A reader has to know this before any number.
TINY_NOTES: Final = (
    (
        "The model is tiny: 3.2 million parameters, a test instrument. It shows whether answers "
        "stay the same on the kernel, and what scheduling, batching and adapters cost or save."
    ),
    (
        "It does not show how good agents are with AIOS. How many tasks are right shows what so "
        "small a model can do, its times are those of a model that answers in a tenth of a second "
        "on a CPU, and it writes no programs."
    ),
)
#: And this, where the model behind the plain server is ours.
SERVER_NOTE: Final = (
    "Natively the model is behind a server that answers one request at a time, first come, first "
    "served; the kernel's core computes up to 16 together. Most of what the kernel gains under "
    "load here is that; a server such as vLLM does it too. Compare on one with --core URL."
)


def findings(results: Results) -> list[str]:
    """The main results, one sentence each; none of what was not run."""
    return [
        line
        for line in (
            _same(results),
            _skipped(results),
            *_load(results),
            _mixed(results),
            _overhead(results),
        )
        if line
    ]


def _same(results: Results) -> str:
    found = [results.correctness(framework) for framework in results.frameworks()]
    same, both = sum(one.same for one in found), sum(one.both for one in found)
    if not both:
        return ""
    if same == both:
        return f"All {both} conversations went word for word on the kernel as they went natively."
    return f"{same} of {both} conversations went word for word on the kernel as natively."


def _skipped(results: Results) -> str:
    kinds = dict.fromkeys(row.kind for row in results.tasks if row.skipped)
    return f"Not everything could be tried here: {', '.join(kinds)}." if kinds else ""


def _load(results: Results) -> list[str]:
    """Of the largest load."""
    most = max((row.agents for row in results.loads), default=0)
    lines = []
    for framework in results.frameworks():
        rows: dict[str, LoadRow] = {
            row.system: row
            for row in results.loads
            if (row.framework, row.agents) == (framework, most)
        }
        if NATIVE not in rows or KERNEL not in rows:
            continue
        native, kernel = rows[NATIVE], rows[KERNEL]
        lines.append(
            f"{framework}, {most} agents at once: {kernel.per_minute:.0f} tasks a minute on the "
            f"kernel, {native.per_minute:.0f} natively; mean turnaround "
            f"{mean(kernel.turnarounds_s):.1f} s and {mean(native.turnarounds_s):.1f} s."
        )
    return lines


def _mixed(results: Results) -> str:
    ends: dict[str, float] = {}
    for row in results.mixed:
        ends[row.system] = max(ends.get(row.system, 0.0), row.makespan_s)
    if ends.keys() != {"each for itself", "one kernel"}:
        return ""
    agents = sum(row.agents for row in results.mixed if row.system == "one kernel")
    return (
        f"{agents} agents of all frameworks together: done after {ends['one kernel']:.1f} s on one "
        f"kernel, after {ends['each for itself']:.1f} s each for itself."
    )


def _overhead(results: Results) -> str:
    by_key = {(row.framework, row.system): row.p50_us for row in results.overheads}
    adds = {
        framework: by_key[framework, KERNEL] - by_key[framework, ALONE]
        for framework in results.frameworks()
        if {(framework, KERNEL), (framework, ALONE)} <= by_key.keys()
    }
    if not adds or (BARE, KERNEL) not in by_key:
        return ""
    most = max(adds, key=lambda framework: adds[framework])
    if adds[most] <= 0:
        return "What adapter and kernel add to a call is too little to be measured here."
    return (
        f"Adapter and kernel add at most {adds[most] / 1e3:.2f} ms to a call ({most}); the "
        f"kernel's own call takes {by_key[BARE, KERNEL] / 1e3:.2f} ms."
    )
