"""Identity, round clock, agreement, scores and rewards, behind one protocol."""
