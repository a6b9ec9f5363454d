"""Run frameworks' own test suites with their fakes running as syscalls of a kernel.

A framework tests itself with fake models and savers. A plug-in of this folder lets
every call of such a fake go through a kernel: the request is translated and
scheduled, the fake answers as the kernel's core, the answer is translated back and
compared with the fake's answer. A test that passes before and not after shows
something that the way through the kernel loses.

    python -m compat_bench.reroute langgraph-swarm
    python -m compat_bench.reroute langchain PATH/TO/langgraph

runs a suite both ways and compares the sets of passing tests.

    suites       the suites on the package index, and how each is fetched
    switchboard  the kernel behind the fakes
    wrapping     find the fakes of a suite
    langchain, langgraph, autogen, agent_framework, llamaindex
                 the pytest plug-ins, one for each framework
"""
