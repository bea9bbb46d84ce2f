"""The HTTP side of the service: request bodies, fields, errors, keys and limits."""
