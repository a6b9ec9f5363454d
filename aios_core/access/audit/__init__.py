"""Record decisions and effects in a hash chain, in which no record can be changed unnoticed.

trail        append to the chain, verify it, archive old records
record       one record, and its table in the database
chain        the hash of a record, which covers the hash before it
outbox       records that wait for the next transaction
archive      files of old records
heads        the last hash, also kept outside of the database
inspection   read the trail of a state directory without its kernel, for commands
model_calls  record outcomes of LLM calls, from the kernel's events
"""
