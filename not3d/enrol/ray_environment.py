"""What Ray has to be told before it is imported."""

import os
import secrets


def prepare(address: str) -> None:
    """Set what Ray reads as it is imported, for a driver of the cluster at ``address``."""
    # It would report its use to its makers.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # It would warn of a change to come in how it hides GPUs, and we use none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        # Without clusters of several machines, this machine's address is the loopback, and nothing else is listened at.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A token of this run's own: it would write one that stays below the home folder.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
