"""From a network and a chat to an answer."""
