"""How much each of several labels of a row counts: one file a kind."""
