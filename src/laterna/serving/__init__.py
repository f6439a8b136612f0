"""The assistant at work: so far a conversation in the terminal."""
