"""Makes the shipped nano base models again from nothing: `python -m laterna.world.pretrain`."""
