"""Losses, one file each: the fields and the maths together."""
