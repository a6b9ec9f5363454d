"""List the patches of `aios run` and `install()` for Open Interpreter, without importing it."""

import sys
from typing import Final

from aios_core.launch import Launcher


class _Launcher(Launcher):
    """A launcher that also detaches the interpreters that its patches have attached."""

    def uninstall(self) -> None:
        super().uninstall()
        if (launching := sys.modules.get("open_interpreter_aios.patches")) is not None:
            launching.detach_all()


# Its package's first module, before the one that imports LiteLLM.
_FIRST: Final = {"interpreter.core": "open_interpreter_aios.offline:stay_offline"}

launcher: Final = _Launcher(
    "Open Interpreter",
    patches={
        "substitute": {
            **_FIRST,
            "interpreter.core.core": "open_interpreter_aios.patches:patch_substitute",
        },
        "passthrough": {
            **_FIRST,
            "interpreter.core.core": "open_interpreter_aios.patches:patch_passthrough",
        },
    },
    tested={"open-interpreter": ("0.4.3",)},
)
