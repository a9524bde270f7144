"""What exits are worth on documents nobody fitted anything on: targets, chances, policies."""
