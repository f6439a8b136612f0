"""The embedded tabletop world: a small COCO-form dataset with every attribute known."""
