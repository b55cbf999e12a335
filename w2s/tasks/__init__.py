"""Classification tasks, one file a family."""
