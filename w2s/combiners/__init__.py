"""How predictions of several supervisors become one: a file a kind."""
