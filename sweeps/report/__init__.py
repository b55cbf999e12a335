"""The report of a sweep: tables, figures and debates, from what the sweep left in MLflow."""
