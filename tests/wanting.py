"""What a machine may lack: its tests skip with the reason, and fail where a variable says that it must be there."""

import os
from typing import NoReturn

import pytest


def missing_unless_required(variable: str, what: str) -> NoReturn:
    """Skips for want of `what`, or fails where this variable is set."""
    if os.environ.get(variable):
        pytest.fail(f"{what} is required here, and there is none")
    pytest.skip(f"no {what} on this machine")
