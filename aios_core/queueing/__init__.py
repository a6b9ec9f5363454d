"""Order waiting calls: decisions that the schedulers of LLM calls and of tools share.

    policy          rank waiting calls: FIFO, round robin, priority, fair share, LAS; count service
    named_policy    build a policy by name, with the settings of the configuration
    ranked_queue    a queue in the order of a policy, which can change while its items wait
    token_bucket    calls per time

Pure: no clock, no threads, no I/O.
"""
