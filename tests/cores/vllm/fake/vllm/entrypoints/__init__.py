"""A stand-in for vLLM: the same command, and as little behind it as the tests need."""
