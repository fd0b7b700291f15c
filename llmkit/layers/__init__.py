"""The parts that all families are made of."""
