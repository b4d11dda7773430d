"""From a probability to a person: scoring, alerts, webhooks, API, console and the command `sluicewatch`."""
