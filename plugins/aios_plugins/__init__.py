"""The bundled tools of AIOS, which the kernel loads like third-party ones: by entry point.

calculator  evaluate arithmetic expressions
clock       the current date and time
code        run Python and shell code in the sandbox
files       read and write the agent's files
http_fetch  fetch a page from a listed host
memory      remember, recall and search values
example     a plug-in to copy
"""
