"""Interactions to clean histories, splits and windows, as Ibis expressions alone.

Nothing here names an engine: the tables run wherever their connection does.
"""
