"""The errors a user can cause. The command line turns exactly these into one line and an exit code."""


class UbenchError(ValueError):
    """A rule was broken: the message names the rule, the value and the place. Exit code 1."""

    exit_code = 1


class SpecError(UbenchError):
    """An architecture that cannot exist."""


class NothingFeasibleError(UbenchError):
    """A search that no architecture can satisfy, or in which none did. Exit code 3."""

    exit_code = 3
