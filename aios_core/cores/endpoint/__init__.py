"""The parts that cores share which call an endpoint over HTTP.

    core           `EndpointCore`: one request for each run, read chunk by chunk
    answer_reader  the contract of what turns chunks into progress and an answer
    time_limits    the times that an endpoint may take
    client_errors  what a client library reports, independent of the library
    errors         translate refusals to kernel errors
    event_stream   split the bytes of an answer into JSON texts
    surrogates     join characters that a server cut in two
    core_quotas    the quotas that a core draws on, and its pauses (HTTP 429)
    send_trace     whether a request was sent, and so may have cost something
    certificates   the certificates that connections are checked against

Importing this package imports no client library.
"""
