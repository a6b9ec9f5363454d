"""Keep within the quotas of a remote API: calls and tokens per time, as the endpoint allows them.

    durations   read times that servers write: "6m0s", seconds, dates
    headers     read the rate-limit headers of a response
    reported    a bucket that follows the headers
    learned     a pace that is learned from refusals, for endpoints without headers
    configured  limits that the configuration sets
    costs       what a call takes from a quota, estimated before and corrected after it
    governor    decide when a call may leave; pure, the caller passes the time
    gate        the governor on an event loop: calls wait there, cores share it

Importing this package imports no client library.
"""
