"""Find the bundled model.

A wheel carries it inside the package, a checkout has it in `models/`. Nothing is
read here, but by the core that loads the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aios_core.distribution import DISTRIBUTION
from aios_core.errors import ModelLoadError

TINY_MODEL: Final = "tiny"  # the name under which agents ask for it
_PACKAGE: Final = Path(__file__).parent
_PLACES: Final = (
    _PACKAGE / "_models" / TINY_MODEL,  # an installed wheel
    _PACKAGE.parent / "models" / TINY_MODEL,  # a checkout
)


def tiny_model_path() -> Path:
    """Return the folder of the tiny model. Raises `ModelLoadError` if it is not installed."""
    for place in _PLACES:
        if (place / "config.json").is_file():
            return place
    looked = " nor in ".join(str(place) for place in _PLACES)
    raise ModelLoadError(
        f"the tiny model that comes with {DISTRIBUTION} is neither in {looked}; "
        f"reinstall {DISTRIBUTION}, or point at another model with AIOS_MODEL=... "
        "or a [[cores]] table in aios.toml"
    )
