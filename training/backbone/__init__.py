"""The reference model itself: its layers with early exits, how it is trained, and its export."""
