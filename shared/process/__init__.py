"""The life of a process: its servers, signals, shutdown, and the failpoints of tests."""
