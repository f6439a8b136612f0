"""The assistant: a vision tower, a connector and a language model, joined by composition."""
