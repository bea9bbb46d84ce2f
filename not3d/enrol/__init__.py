"""Finding footage on disk and sending it to the service."""
