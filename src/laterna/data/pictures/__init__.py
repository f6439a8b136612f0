"""Picture files become pixels: found, opened with care, made square or tiled, and normalised.

`files` (a name to a file or bytes) · `opening` (these to what a person sees) · `tokens` (how many
tokens a picture takes, and AnyRes' tiles) · `fitting` (opened pictures to an encoder's pixels).
"""
