"""The answer to which of several equal computations serves, with the reason in a line."""

from typing import NamedTuple


class Choice(NamedTuple):
    """The computation's name, and a line that opens with it and says why."""

    name: str
    why: str
