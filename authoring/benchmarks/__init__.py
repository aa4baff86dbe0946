"""Measurements that are too long for a notebook or a test."""
