"""Tandem's session protocol as a discrete-event model, for sizes not at hand."""
