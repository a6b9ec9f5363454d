"""Order waiting calls: decisions that the schedulers of LLM calls and of tools share.

    policy          rank waiting calls: FIFO, round robin, priority, fair share, LAS
    named_policy    build a policy by name, with the settings of the configuration
    guarded_policy  ask a third-party policy, and contain what it raises
    ranked_queue    a queue that can be reordered while its items wait
    token_bucket    calls per time
    shares          count the service that agents and groups have received

Pure: no clock, no threads, no I/O.
"""
