"""Makes the shipped nano base models again from nothing: `python -m pretrain_nano`."""
