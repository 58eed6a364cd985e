"""The one exception that bad model data raises."""


class ModelError(Exception):
    """A checkpoint or model file cannot be used.

    The message is one line and says where, what, and what to do about it.
    """
