"""Ask a person to approve one exact request.

    approval      the request, the answer, and the contract of an approver
    factory       build the approver that `access.approver` names
    callback      ask a function of the program
    terminal      ask at the terminal
    live_display  pause a program's live display while the terminal asks
    queue         ask through the approval queue, which `aios approvals` answers
    files         the files of that queue, below the state directory

Whether a request needs an approval is decided in `aios_core.access.policy`.
"""
