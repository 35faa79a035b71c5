"""The few primitives that wait: for time, for permits, for worker threads."""
