"""Several processes that train as one: how they start, join, agree and end together."""
