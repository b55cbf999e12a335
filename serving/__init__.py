"""Models behind endpoints, and debates between speakers.

Knows no weak, no strong, no label, no sweep.
"""
