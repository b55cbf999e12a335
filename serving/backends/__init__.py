"""Ways to bring models up, one file each."""
