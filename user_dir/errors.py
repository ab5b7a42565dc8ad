"""The error that people see."""


class UserError(ValueError):
    """A mistake in an option, a file or a text that a person can mend.

    The message is one line: option, value received, rule, remedy. Commands print it
    without a traceback (see ``compat.install_error_hook``) and exit with status 2.
    """
