"""Several processes that train as one: how they start, meet, agree and end together."""
