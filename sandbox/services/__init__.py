"""BESIDE: what a sandbox needs outside of itself, each a registry with one module a driver."""
