"""Trained nets at work: restored from a workdir, run over images, evaluated."""
