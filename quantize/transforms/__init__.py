"""What QoQ does to a layer before rounding: exact changes that make rounding lose less."""
