"""The bundled models and their training. Not part of the `aios_core` package."""
