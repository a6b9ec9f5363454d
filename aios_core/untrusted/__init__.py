"""Handle what comes from outside the kernel: it may be wrong, slow, huge or hostile.

arguments         check what callers pass
fields            check the fields of requests against their annotations
third_party       show exceptions and objects of third-party code safely
blocking_calls    call third-party code that blocks, on threads of its own
reported_numbers  check figures from outside before they count
schema_cost       bound the time that a JSON schema takes
"""
