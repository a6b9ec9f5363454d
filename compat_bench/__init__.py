"""Compare agents on the kernel with the same agents run natively: answers, speed, fairness.

    __main__         the command `python -m compat_bench`
    tasks            the tasks, equal for every framework; `task_builder` makes them
    problems         programming problems that a user brings
    drivers          one driver for each framework
    backends         where the model is: behind a plain endpoint, or on a kernel
    baseline_server  the plain endpoint: one request at a time
    code_execution   run the code of a task natively or in the sandbox
    runner           run the tasks: one by one for answers, many at once for times
    records          measurements, and the figures computed from them
    findings         what the figures show, in sentences
    tables, plots    the results as tables and pictures; `html_page` puts them on one page
    reroute          run frameworks' own test suites through the kernel

`interpreter_client` and `interpreter_worker` run Open Interpreter in an environment of its own.
"""
