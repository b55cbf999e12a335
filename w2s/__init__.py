"""The science: tasks, models, losses, one training loop, stages, methods, metrics."""
