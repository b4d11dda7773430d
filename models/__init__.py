"""From features to a probability: labels, forecaster, alarm policy, evaluation, training, registry."""
