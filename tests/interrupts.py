"""Processes that a test interrupts."""

import signal


def heed_interrupts() -> None:
    """For `preexec_fn`: a run that was itself started in the background hands on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
