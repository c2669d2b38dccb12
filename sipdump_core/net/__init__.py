"""Addresses, unix sockets: what several rooms need of the network."""
