"""Fitting a scan with a trained run."""
