"""Sample data for demos."""
