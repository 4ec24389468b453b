"""Sources and targets on disk: records, datasets, ingest, synthesis, streams."""
