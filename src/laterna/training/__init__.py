"""Training: two stages, one loop, the loss on the assistant's words alone."""
