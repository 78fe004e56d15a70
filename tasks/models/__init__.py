"""Compositions: put together, judged, signed, registered, promoted."""
