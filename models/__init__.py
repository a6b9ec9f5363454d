"""Models that come with the project. Not part of the `aios_core` package."""
