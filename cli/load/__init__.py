"""`tandem load`: load on several edges, and what their users would have seen of it."""
