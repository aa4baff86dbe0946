"""What authors run and no learner opens."""
