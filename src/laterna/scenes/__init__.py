"""What an annotated picture holds: reading it, its geometry, its facts, and the words for them.

Shared by whoever writes about pictures, checks what was written, and examines assistants:
`synthesis`, `evaluation` and `world`. None of them takes its truth from another.
"""
