"""Send hostile requests to the service and check that it stays within its limits."""
