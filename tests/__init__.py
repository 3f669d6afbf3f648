"""The test suite: contracts that every defense, attack and network keeps, and oracles."""
