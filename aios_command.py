"""The `aios` command from its very first instant, so that Ctrl-C is one line there too.

Everything else is in `aios_core.cli`; importing that takes a moment, in which a person may
already have changed their mind. Nothing is imported here that is not loaded anyway.
"""

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        from aios_core.cli import run_command  # noqa: PLC0415 - the reason for this module
    except KeyboardInterrupt:
        print("aios: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    return run_command()
