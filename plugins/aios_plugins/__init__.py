"""The bundled tools of AIOS. The kernel loads them like those of others: by entry point."""
