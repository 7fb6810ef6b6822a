"""What other apps must hear of. Sent after the commit."""

from django.dispatch import Signal

# Arguments: session_id (UUID), worker (str): the channel of the worker that holds the session.
cancel_requested = Signal()
# The same arguments: a message waits that may enter the running turn.
steering_requested = Signal()
# Argument: run_id (UUID): a run that waited for a person can go on.
run_ready = Signal()
# Argument: run_ids (list of UUID): runs that were cancelled while no worker had them.
runs_cancelled = Signal()
