"""``python -m aios_core.cli`` is the `aios` command, where no script is installed."""

import sys

from aios_core.cli import main

sys.exit(main())
