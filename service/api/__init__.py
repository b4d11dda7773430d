"""The HTTP API: one router per resource under `/api/v1`, health and metrics. Reads no settings and asks no clock of its own."""
