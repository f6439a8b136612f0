"""What experiments teach their assistants beside the world's own records."""
