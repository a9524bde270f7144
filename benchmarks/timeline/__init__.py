"""One request as a picture: who computed, what travelled and who waited, on one line of time."""
