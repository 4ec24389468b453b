"""Procedural furniture: chairs, tables and cabinets of really different part structures."""
