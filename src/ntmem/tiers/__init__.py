"""The tiers of a store; the facade in :mod:`ntmem.system` wires them together."""
