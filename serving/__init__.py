"""Models behind endpoints, and debates between speakers; knows no weak, no strong, no label, no sweep."""
