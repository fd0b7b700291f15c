"""Can the Hugging Face Hub be reached? Asked first, because its own library tries for half a minute."""

import os
import socket
from urllib.parse import urlsplit


def hub_reachable(timeout: float = 3.0) -> bool:
    """Whether a connection to the Hub opens within `timeout` seconds.

    False without a try where HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set to a true value. The address is HF_ENDPOINT,
    or https://huggingface.co. Behind a proxy, which only the library knows how to use, it says False too.
    """
    if any(os.environ.get(name, "0").lower() in ("1", "true", "yes", "on") for name in _OFFLINE):
        return False
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout):
            return True
    except (OSError, ValueError):
        return False


_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
