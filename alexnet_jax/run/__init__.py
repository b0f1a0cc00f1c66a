"""What surrounds a run: checks at start-up, its folder, reports, profiling, signals."""
