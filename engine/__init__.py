"""The step loop and everything that touches the device."""
