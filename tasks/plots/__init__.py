"""Plots, as SVG without a date."""
