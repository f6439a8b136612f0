"""What is measured of a trained assistant beside its answers: its features and its words."""
