"""The checks: each takes the facts and gives what it finds. Pure."""
