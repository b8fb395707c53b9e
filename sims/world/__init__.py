"""The simulated world: a virtual clock, devices, networks, and who is there when."""
