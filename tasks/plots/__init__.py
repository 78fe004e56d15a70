"""Plots that are drawn here, without a library: equal figures, equal bytes."""
