"""Measuring pictures: distances, recall, alignment, memorisation, membership, attribution, and the gate that judges by them."""
