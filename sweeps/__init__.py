"""The experiment: sweep file, plan, store, execution on Ray, search, tracking, report."""
