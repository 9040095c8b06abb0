"""Reports: one fact row for each conversation and cycle, made from the log, and the numbers that are read from them."""
