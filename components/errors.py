"""The one kind of error that is meant for the person at the keyboard."""


class InputError(Exception):
    """Input that cannot be used: one sentence that says what is wrong, where, and what to do.

    Stages print the sentence and leave with status 2; a traceback is for our own mistakes only.
    """
