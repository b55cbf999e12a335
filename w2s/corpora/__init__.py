"""Corpora: what a rung of the ladder reads when the sweep pretrains it, one file a kind."""
