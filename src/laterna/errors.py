"""The one exception that speaks to a person: the command line prints it and exits 2."""


class LaternaError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do."""
