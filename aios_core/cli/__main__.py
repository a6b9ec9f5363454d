"""``python -m aios_core.cli`` is the `aios` command, where no script is installed."""

import sys

from aios_core.cli import run_command

sys.exit(run_command())
