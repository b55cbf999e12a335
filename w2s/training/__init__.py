"""The loops that take gradient steps, and what they need; one file of it knows Ray."""
