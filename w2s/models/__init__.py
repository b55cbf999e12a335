"""Base models, their shapes and sources, and the classifier on top of them."""
