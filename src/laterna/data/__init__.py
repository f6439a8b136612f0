"""Instruction records become batches; read the files in this order.

`sources` (files to records) · `chat` (turns to text) · `masking` (text to tokens and targets) ·
`images` (files to pixels) · `image_tokens` (how many tokens they will be) · `preparation`
(checks, drops and counts) · `packing` (which samples share a row) · `batches` (rows to tensors).
"""
