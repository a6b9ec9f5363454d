"""vLLM servers that the kernel runs as its children.

    core           `VLLMCore`: start the server, serve through it, restart it, stop it
    arguments      the command line of a server, with the flags that agents need
    installation   which version of vLLM an interpreter has
    server         one server process: its log, its stages, its end

vLLM has an environment of its own, so nothing here imports it.
"""
