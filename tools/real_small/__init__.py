"""The scripts of docs/real-small.md: a small assistant of real weights on photographs."""
