"""What an annotated image holds: reading it, its geometry, its facts, and the words for them.

Shared by whoever writes about images, checks what was written, and examines assistants:
`synthesis`, `evaluation` and `world`. None of them takes its truth from another.
"""
