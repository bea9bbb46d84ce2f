"""The image's HEALTHCHECK: exits 0 if the service in this container is ready, otherwise 1 with the reason.

Only the standard library is used, because Docker starts this every few seconds.
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
