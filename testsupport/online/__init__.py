"""Writers, workers and faults beside an online change, and an oracle over all rows."""
