"""The side of the caller: requests in, engine steps, text out."""
