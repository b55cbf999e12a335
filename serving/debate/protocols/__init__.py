"""Debate protocols, one file each."""
