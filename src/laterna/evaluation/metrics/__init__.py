"""What counts as a right answer: one file a metric."""
