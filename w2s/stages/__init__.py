"""Stages: the nodes of a plan. Each is a value whose key says what it computes."""
