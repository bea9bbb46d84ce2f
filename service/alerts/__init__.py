"""Where alerts go: to listeners of the stream, and to webhooks."""
