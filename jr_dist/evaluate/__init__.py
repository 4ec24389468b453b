"""Metrics, the evaluation protocol, tables and the report."""
