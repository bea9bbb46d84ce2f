"""From tracklets to batches of training clips."""
