"""Jobs that live on the machine they run from, and not on the connection that asked for them."""
