"""Experts composed at sampling time: the document that names a model, samplers, mixing, and the paper's extensions."""
