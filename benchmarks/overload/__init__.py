"""What becomes of an edge and its cloud when several times more is asked than they can serve."""
