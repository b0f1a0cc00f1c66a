"""Other people's weights in and out. Arrays cross this border untouched: their bits are only put in another order."""
