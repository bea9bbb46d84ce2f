"""Exits 0 when the service in this container says that it is ready, else 1 with the reason: the image's HEALTHCHECK.

Standard library only, because Docker starts it anew every few seconds.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

connection = HTTPConnection("127.0.0.1", int(os.environ.get("NOT3D_PORT", "8000")), timeout=4)
try:
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    body = response.read(2000).decode(errors="replace")
except (OSError, HTTPException) as error:
    sys.exit(f"no answer: {error!r}")
if response.status != 200:
    sys.exit(f"{response.status}: {body}")
