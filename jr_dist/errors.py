"""The one exception that stands for a user's mistake rather than ours."""


class InputError(ValueError):
    """Wrong input or setting: one line saying what was wrong, the value, what is allowed and the remedy.

    The command line prints the line and leaves with exit status 2; everything else is a failure of ours (status 1).
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
