"""The core that the tutorial builds keeps the contract of all cores."""

from __future__ import annotations

import re
from pathlib import Path

from aios_core.core import Core
from aios_core.testing.core_contract import CoreContract

PAGE = Path(__file__).parents[2] / "docs/tutorials/write-a-core.md"


class TestTheCoreOfTheTutorial(CoreContract):
    def make_core(self) -> Core:
        provider, core, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        names: dict[str, type[Core]] = {}
        exec(compile(provider + core, str(PAGE), "exec"), names)  # noqa: S102 - our own page
        return names["EchoCore"]()
