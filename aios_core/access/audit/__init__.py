"""Record decisions and effects in a hash chain.

record, chain  one record, and the hash that covers the records before it
outbox         records waiting for the next transaction
trail          write, verify and archive the chain; `archive` keeps old records in files
heads          the last hash, kept outside of the database too
inspection     read the trail of a state directory, for commands
model_calls    outcomes of LLM calls, from the kernel's events
"""
