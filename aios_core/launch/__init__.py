"""Put agent frameworks on the kernel at import: `install()` and `aios run`.

    launcher  `Launcher` and `install`: the patches of every installed adapter
    patching  replace attributes of a framework's classes, and restore them
    notices   notify the person who runs a program, once

Knows no framework and starts no kernel; adapters bring the patches.
"""

from aios_core.launch.launcher import Launcher, LauncherFailed, Mode, install, uninstall
from aios_core.launch.notices import give_notice
from aios_core.launch.patching import Patches

__all__ = [
    "Launcher",
    "LauncherFailed",
    "Mode",
    "Patches",
    "give_notice",
    "install",
    "uninstall",
]
