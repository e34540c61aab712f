"""DONE: start the native launcher, speak with it, turn its events into values and errors."""
