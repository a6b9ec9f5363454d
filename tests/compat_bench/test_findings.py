"""The findings of a run are sentences about what was run, and nothing else."""

from __future__ import annotations

from compat_bench.findings import findings
from compat_bench.records import (
    ALONE,
    BARE,
    KERNEL,
    NATIVE,
    LoadRow,
    MixedRow,
    OverheadRow,
    Results,
    TaskRow,
)


def test_a_run_of_nothing_says_nothing() -> None:
    assert findings(Results()) == []


def test_conversations_that_went_otherwise_on_the_kernel_are_counted() -> None:
    results = Results()
    for system, answers in ((NATIVE, "ab"), (KERNEL, "ax")):
        results.tasks += [
            TaskRow("A", system, str(n), "chain", True, True, answer, "", 0.1)
            for n, answer in enumerate(answers)
        ]

    assert findings(results) == [
        "1 of 2 conversations went word for word on the kernel as natively."
    ]


def test_the_largest_load_is_told_of_frameworks_that_have_it_on_both_systems() -> None:
    results = Results()
    for framework, system, seconds in (("A", NATIVE, 60.0), ("A", KERNEL, 30.0), ("B", NATIVE, 1)):
        results.loads.append(
            LoadRow(framework, system, 16, 16, 16, 0, seconds, (seconds,) * 16, (0.1,))
        )

    assert findings(results) == [
        (
            "A, 16 agents at once: 32 tasks a minute on the kernel, 16 natively; "
            "mean turnaround 30.0 s and 60.0 s."
        )
    ]


def test_the_mix_ends_with_its_last_framework() -> None:
    results = Results()
    for system, ends in (("each for itself", (4.0, 8.0)), ("one kernel", (3.0, 2.0))):
        results.mixed += [
            MixedRow(system, name, 8, 8, end, 1.0, 1.0)
            for name, end in zip("AB", ends, strict=True)
        ]

    assert findings(results) == [
        (
            "16 agents of all frameworks together: done after 3.0 s on one kernel, "
            "after 8.0 s each for itself."
        )
    ]


def test_what_the_kernel_adds_is_what_the_framework_does_not_take_by_itself() -> None:
    assert "at most 0.20 ms to a call (A)" in findings(overheads(alone_us=100.0))[0]
    assert "too little to be measured" in findings(overheads(alone_us=400.0))[0]


def overheads(alone_us: float) -> Results:
    rows = ((BARE, KERNEL, 90.0), ("A", ALONE, alone_us), ("A", KERNEL, 300.0))
    return Results(overheads=[OverheadRow(name, system, 9, us, us) for name, system, us in rows])
