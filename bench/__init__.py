"""How fast sbx starts, beside its peers in the same run. `make bench` prints the tables."""
