"""From the gate to a row of features: readings, dataset folders, ingest, historian, operations, features."""
