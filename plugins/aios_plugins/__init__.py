"""Tools that come with AIOS. The kernel loads them as it loads anybody's: by entry point."""
