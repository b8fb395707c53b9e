"""Asking the router for a port: NAT-PMP and UPnP, without any library."""
