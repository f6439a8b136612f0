"""Image files become pixels: found, opened with care, made square or tiled, and normalized.

`files` (a name to a file or bytes) · `opening` (these to what a person sees) · `tokens` (how many
tokens an image takes, and AnyRes' tiles) · `fitting` (opened images to an encoder's pixels).
"""
