"""Ask a person to approve one exact request.

approval      the question, the answer, and the contract of an approver
factory       build the approver that the configuration names
callback      ask a function of the program
terminal      ask at the terminal; `live_display` pauses a live display meanwhile
queue, files  ask from another process, through files below the state directory
"""
