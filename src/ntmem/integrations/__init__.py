"""What connects a store to the tools of others. Each module needs the extra that it names, and nothing imports it."""
