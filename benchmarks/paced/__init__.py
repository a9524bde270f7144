"""The services as they are, every engine step held to what it would cost on a 7B model."""
